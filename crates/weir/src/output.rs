//! What goes to stdout: results, as text for people or as JSON for programs, and nothing else. Messages about
//! what is going on go to stderr.
//!
//! A reader that has closed its end (`weir subscribe … | head -1`) has had enough: that ends the program
//! quietly and well, wherever it is written.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Stdout, buffered. Flush before waiting for anything.
pub(crate) struct Out {
    to: BufWriter<StdoutLock<'static>>,
}

impl Out {
    pub(crate) fn new() -> Self {
        Self { to: BufWriter::with_capacity(64 << 10, io::stdout().lock()) }
    }

    /// Bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(stdout_failed)
    }

    /// A line of text.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.write(text.as_ref().as_bytes())?;
        self.write(b"\n")
    }

    /// One JSON value on a line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text =
            serde_json::to_string(value).map_err(|error| Failure::failed(format!("write JSON: {error}")))?;
        self.line(text)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(stdout_failed)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        // Where it matters whether this worked, `flush` was called before.
        let _ = self.to.flush();
    }
}

/// Prints one result: `text` for people, `value` with `--json`.
pub(crate) fn print(
    as_json: bool,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let mut out = Out::new();
    if as_json {
        out.json(value)?;
    } else {
        let text = text();
        if !text.is_empty() {
            out.line(text.trim_end())?;
        }
    }
    out.flush()
}

/// Rows under a heading, each column as wide as its widest cell.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let columns = heading.len();
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut add = |row: &mut dyn Iterator<Item = &str>| {
        for (index, cell) in row.enumerate() {
            text.push_str(cell);
            if index + 1 < columns {
                let padding =
                    widths.get(index).copied().unwrap_or_default().saturating_sub(cell.chars().count());
                text.extend(std::iter::repeat_n(' ', padding + 2));
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    };
    add(&mut heading.iter().copied());
    for row in rows {
        add(&mut row.iter().map(String::as_str));
    }
    text
}

/// Says on stderr what is going on: a sentence, or with `--json` an object on a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Messages {
    pub(crate) as_json: bool,
    pub(crate) quiet: bool,
}

impl Messages {
    /// `what` names the kind of message for programs.
    pub(crate) fn say(&self, what: &str, text: impl AsRef<str>) {
        if self.quiet {
            return;
        }
        // A closed stderr is no reason to stop delivering.
        let _ = if self.as_json {
            writeln!(io::stderr(), "{}", serde_json::json!({"message": what, "text": text.as_ref()}))
        } else {
            writeln!(io::stderr(), "{}", text.as_ref())
        };
    }
}

/// Bytes for people: `1.4 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B");
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A count for people: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn stdout_failed(error: io::Error) -> Failure {
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Failure::failed(format!("write to stdout: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_have_no_trailing_spaces() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["longer".into(), String::new()]];
        assert_eq!(table(&["NAME", "LAST"], &rows), "NAME    LAST\na       1\nlonger\n");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 40), "3.0 TiB");
    }
}
