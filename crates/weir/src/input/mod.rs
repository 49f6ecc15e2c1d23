//! What `weir publish` reads: bytes of a file or a pipe in, events out, one at a time and in order.
//!
//! | form | recognised by | becomes |
//! |---|---|---|
//! | CloudEvents, one JSON object a line | a member `specversion` | itself |
//! | CloudEvents, a JSON array | begins with `[` | its elements |
//! | plain JSON, one object a line (or an array) | all other JSON | an event by [`Shape`]; `data` is the object's exact text |
//! | CSV with a heading row | `.csv` or `.tsv`, or `--format` | an event by [`Shape`] for each row; `data` is a JSON object |
//!
//! Every error names the line. Nothing here waits for anything but its reader: it runs on a thread of its own.

mod csv;
mod json;

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use weir_event::{Data, Event, Timestamp};

use crate::failure::Failure;

/// How input is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// JSON: an object a line, or one array
    Json,
    /// Comma separated, with a heading row
    Csv,
    /// Tab separated, with a heading row
    Tsv,
}

impl Format {
    /// By the name of the file; JSON if it says nothing.
    pub(crate) fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            _ => Self::Json,
        }
    }
}

/// How something that is no CloudEvent becomes one.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// The event's `type`.
    pub(crate) ty: String,
    /// The event's `source`.
    pub(crate) source: String,
    /// Where the data holds the id; without it ids are this run's own.
    pub(crate) id: Option<Field>,
    /// Where the data holds the time.
    pub(crate) time: Option<Field>,
    /// Where the data holds the subject.
    pub(crate) subject: Option<Field>,
    /// What ids without a field begin with: random for each run.
    pub(crate) run: String,
}

/// A member of JSON data: a JSON pointer (RFC 6901), or a name at the top.
#[derive(Clone, Debug)]
pub(crate) struct Field(String);

impl std::str::FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("write the name of a member, or a JSON pointer as /flight/id".into()),
            _ if text.starts_with('/') => Ok(Self(text.to_owned())),
            name => Ok(Self(format!("/{}", name.replace('~', "~0").replace('/', "~1")))),
        }
    }
}

impl Field {
    /// The member's value, if it is there.
    fn of<'a>(&self, data: &'a Value) -> Option<&'a Value> {
        data.pointer(&self.0)
    }
}

impl Shape {
    /// The event for `data`, whose text is `text`; `index` counts what this run has read.
    fn event(&self, data: &Value, text: String, index: u64) -> Result<Event<'static>, String> {
        let id = match &self.id {
            None => format!("{}-{index}", self.run),
            Some(field) => {
                scalar(field, data)?.ok_or_else(|| format!("there is no {} to be the id", field.0))?
            }
        };
        let mut event =
            Event::new(id, self.source.clone(), self.ty.clone()).map_err(|error| error.to_string())?;
        if let Some(field) = &self.time
            && let Some(time) = moment(field, data)?
        {
            event.set("time", time).map_err(|error| error.to_string())?;
        }
        if let Some(field) = &self.subject
            && let Some(subject) = scalar(field, data)?
        {
            event.set("subject", subject).map_err(|error| error.to_string())?;
        }
        event.set("datacontenttype", "application/json").map_err(|error| error.to_string())?;
        event.set_data(Some(Data::text(text)));
        Ok(event)
    }
}

/// A string or number as text; none where it is absent or null.
fn scalar(field: &Field, data: &Value) -> Result<Option<String>, String> {
    match field.of(data) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(format!("{} is neither a string nor a number", field.0)),
    }
}

/// A time: RFC 3339, or seconds or milliseconds since 1970 (apart by size: 100,000,000,000 seconds end in the
/// year 5138).
fn moment(field: &Field, data: &Value) -> Result<Option<Timestamp<'static>>, String> {
    let wrong = || format!("{} is no time: neither RFC 3339 nor seconds or milliseconds since 1970", field.0);
    match field.of(data) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Timestamp::parse(text.clone()).map(Some).ok_or_else(wrong),
        Some(Value::Number(number)) => {
            let number = number.as_f64().filter(|number| number.abs() < 1e15).ok_or_else(wrong)?;
            let millis = if number.abs() < 1e11 { number * 1000.0 } else { number };
            // Exact: below 2^53.
            let millis = millis.round() as i64;
            let nanos = u32::try_from(millis.rem_euclid(1000)).unwrap_or_default() * 1_000_000;
            Timestamp::from_unix(millis.div_euclid(1000), nanos).map(Some).ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}

/// Reads events.
pub(crate) struct Input {
    reader: Reader,
    /// Bytes taken from the file or pipe, for progress.
    taken: Arc<AtomicU64>,
    name: String,
}

enum Reader {
    Json(Box<json::Reader>),
    Csv(Box<csv::Reader>),
}

impl Input {
    /// Input that is called `name` in errors. Without `shape` it must hold CloudEvents.
    pub(crate) fn new(
        name: String,
        from: impl Read + Send + 'static,
        format: Format,
        shape: Option<Shape>,
    ) -> Result<Self, Failure> {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Counted { from: Box::new(from), taken: taken.clone() };
        let reader = match format {
            Format::Json => Reader::Json(Box::new(json::Reader::new(
                io::BufReader::with_capacity(256 << 10, counted),
                shape,
            ))),
            Format::Csv | Format::Tsv => {
                let shape = shape.ok_or_else(|| needs_shape(&name, "rows are no CloudEvents"))?;
                let delimiter = if format == Format::Csv { b',' } else { b'\t' };
                Reader::Csv(Box::new(csv::Reader::new(counted, delimiter, shape)))
            }
        };
        Ok(Self { reader, taken, name })
    }

    /// How many bytes were taken so far, watched from other threads.
    pub(crate) fn taken(&self) -> Arc<AtomicU64> {
        self.taken.clone()
    }

    /// The next event; none at the end. After an error there is nothing more to read.
    pub(crate) fn next(&mut self) -> Result<Option<Event<'static>>, Failure> {
        let (result, line) = match &mut self.reader {
            Reader::Json(reader) => (reader.next(), reader.line()),
            Reader::Csv(reader) => (reader.next(), reader.line()),
        };
        result.map_err(|problem| match problem {
            Problem::NeedsShape => {
                needs_shape(&format!("{} line {line}", self.name), "it has no `specversion`")
            }
            Problem::Wrong(what) => Failure::usage(format!("{} line {line}: {what}", self.name)),
            Problem::Io(error) => Failure::failed(format!("read {}: {error}", self.name)),
        })
    }
}

/// Why there is no next event.
#[derive(Debug)]
enum Problem {
    /// It is no CloudEvent, and nothing says how to make one of it.
    NeedsShape,
    /// It cannot be understood.
    Wrong(String),
    /// It cannot be read.
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        // Readers of text report bad UTF-8 as an input error: that is about the content.
        if error.kind() == io::ErrorKind::InvalidData {
            Self::Wrong(error.to_string())
        } else {
            Self::Io(error)
        }
    }
}

fn needs_shape(place: &str, why: &str) -> Failure {
    Failure::usage(format!("{place}: not a CloudEvent: {why}")).next(
        "To publish plain JSON or CSV give --type and --source (and --id-field, if the data has an id).",
    )
}

/// Counts what passes.
struct Counted {
    from: Box<dyn Read + Send>,
    taken: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// A line is at most so long: what a node takes in one request.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Reads one line without its end into `line`; false at the end of input.
fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, Problem> {
    line.clear();
    let count = from.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if count as u64 > LINE_BYTES_MAX {
        return Err(Problem::Wrong(format!("longer than {LINE_BYTES_MAX} bytes")));
    }
    Ok(count > 0)
}

#[cfg(test)]
mod tests;
