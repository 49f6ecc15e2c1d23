//! CSV input: a heading row names the members, every other row becomes a JSON object.
//!
//! A cell that is a JSON number stays one, digit for digit; `true` and `false` are booleans; an empty cell is
//! null; everything else, `007` included, is text.

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use weir_event::Event;

use super::{Counted, Problem, Shape};

pub(super) struct Reader {
    from: csv::Reader<Counted>,
    shape: Shape,
    heading: Option<csv::StringRecord>,
    row: csv::StringRecord,
    line: u64,
    index: u64,
}

impl Reader {
    pub(super) fn new(from: Counted, delimiter: u8, shape: Shape) -> Self {
        let from =
            csv::ReaderBuilder::new().delimiter(delimiter).buffer_capacity(256 << 10).from_reader(from);
        Self { from, shape, heading: None, row: csv::StringRecord::new(), line: 1, index: 0 }
    }

    /// The line that the last event or error came from.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    pub(super) fn next(&mut self) -> Result<Option<Event<'static>>, Problem> {
        if self.heading.is_none() {
            let heading = self.from.headers().map_err(|error| malformed(&mut self.line, error))?.clone();
            let mut names: Vec<&str> = heading.iter().map(str::trim).collect();
            names.sort_unstable();
            if let Some(twice) = names.windows(2).find(|pair| pair.first() == pair.last()) {
                return Err(Problem::Wrong(format!(
                    "the heading names {:?} twice",
                    twice.first().unwrap_or(&"")
                )));
            }
            self.heading = Some(heading);
        }
        if !self.from.read_record(&mut self.row).map_err(|error| malformed(&mut self.line, error))? {
            return Ok(None);
        }
        self.line = self.row.position().map_or(self.line, csv::Position::line);
        self.index += 1;
        let mut data = Map::new();
        for (name, text) in self.heading.iter().flatten().zip(&self.row) {
            data.insert(name.trim().trim_start_matches('\u{feff}').to_owned(), cell(text));
        }
        let text = object(&data, self.heading.iter().flatten().zip(&self.row));
        self.shape.event(&Value::Object(data), text, self.index).map(Some).map_err(Problem::Wrong)
    }
}

/// The value of a cell.
fn cell(text: &str) -> Value {
    match text {
        "" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ if is_number(text) => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        _ => text.into(),
    }
}

/// The object's text. Numbers are written as they stand in the row: a trip through floating point would
/// change what somebody measured.
fn object<'a>(data: &Map<String, Value>, row: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::from("{");
    for ((name, value), (_, raw)) in data.iter().zip(row) {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&Value::from(name.as_str()).to_string());
        text.push(':');
        match value {
            Value::Number(_) => text.push_str(raw),
            other => text.push_str(&other.to_string()),
        }
    }
    text.push('}');
    text
}

/// Whether JSON would take it as a number.
fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'))
        && serde_json::from_str::<&RawValue>(text).is_ok()
}

fn malformed(line: &mut u64, error: csv::Error) -> Problem {
    if let Some(position) = error.position() {
        *line = position.line();
    }
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            Problem::Wrong(format!("the row has {len} cells, the heading has {expected_len}"))
        }
        csv::ErrorKind::Utf8 { err, .. } => Problem::Wrong(format!("not UTF-8: {err}")),
        other => Problem::Wrong(format!("{other:?}")),
    }
}
