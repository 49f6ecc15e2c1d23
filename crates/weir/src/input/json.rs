//! JSON input: an object a line, or one array.

use std::io::{BufRead, BufReader, Read};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use weir_event::{Event, json};

use super::{Counted, Problem, Shape, read_line};

/// An array is read as a whole: at most so many bytes.
const ARRAY_BYTES_MAX: u64 = 1 << 30;

pub(super) struct Reader {
    from: BufReader<Counted>,
    shape: Option<Shape>,
    line: u64,
    index: u64,
    buffer: Vec<u8>,
    /// The rest of an array, last element first.
    array: Option<Vec<Box<RawValue>>>,
}

impl Reader {
    pub(super) fn new(from: BufReader<Counted>, shape: Option<Shape>) -> Self {
        Self { from, shape, line: 0, index: 0, buffer: Vec::new(), array: None }
    }

    /// The line that the last event or error came from; of an array, the number of the element.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    pub(super) fn next(&mut self) -> Result<Option<Event<'static>>, Problem> {
        if self.line == 0 && self.begins_array()? {
            self.array = Some(self.read_array()?);
        }
        loop {
            self.line += 1;
            if let Some(array) = &mut self.array {
                let Some(element) = array.pop() else { return Ok(None) };
                self.buffer.clear();
                self.buffer.extend_from_slice(element.get().as_bytes());
            } else if !read_line(&mut self.from, &mut self.buffer)? {
                return Ok(None);
            } else if self.buffer.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return self.event().map(Some);
        }
    }

    /// What the buffer holds, as an event.
    fn event(&mut self) -> Result<Event<'static>, Problem> {
        self.index += 1;
        let names_version = memchr::memmem::find(&self.buffer, b"\"specversion\"").is_some();
        let Some(shape) = &self.shape else {
            if !names_version {
                // Whatever else is wrong with it is more use to know than what it lacks.
                serde_json::from_slice::<IgnoredAny>(&self.buffer).map_err(malformed)?;
                return Err(Problem::NeedsShape);
            }
            return cloud_event(&self.buffer);
        };
        if names_version && is_cloud_event(&self.buffer) {
            return cloud_event(&self.buffer);
        }
        let data: Value = serde_json::from_slice(&self.buffer).map_err(malformed)?;
        let text = String::from_utf8(self.buffer.trim_ascii().to_vec())
            .map_err(|error| Problem::Wrong(error.to_string()))?;
        shape.event(&data, text, self.index).map_err(Problem::Wrong)
    }

    /// Whether the first byte that says anything opens an array. Takes the white space before it.
    fn begins_array(&mut self) -> Result<bool, Problem> {
        // Some editors begin a UTF-8 file with this mark; JSON does not know it.
        const MARK: &[u8] = b"\xEF\xBB\xBF";
        if self.from.fill_buf()?.starts_with(MARK) {
            self.from.consume(MARK.len());
        }
        loop {
            let available = self.from.fill_buf()?;
            let Some(first) = available.first().copied() else { return Ok(false) };
            if first != b' ' && first != b'\t' {
                return Ok(first == b'[');
            }
            self.from.consume(1);
        }
    }

    fn read_array(&mut self) -> Result<Vec<Box<RawValue>>, Problem> {
        let mut text = Vec::new();
        self.from.by_ref().take(ARRAY_BYTES_MAX + 1).read_to_end(&mut text)?;
        if text.len() as u64 > ARRAY_BYTES_MAX {
            return Err(Problem::Wrong(format!(
                "an array of more than {ARRAY_BYTES_MAX} bytes; write one object a line instead"
            )));
        }
        let mut array: Vec<Box<RawValue>> = serde_json::from_slice(&text).map_err(malformed)?;
        array.reverse();
        Ok(array)
    }
}

fn cloud_event(bytes: &[u8]) -> Result<Event<'static>, Problem> {
    json::decode(bytes).map(Event::into_owned).map_err(|error| Problem::Wrong(error.to_string()))
}

/// Whether the object itself, not something in it, has the member that every CloudEvent has.
fn is_cloud_event(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Probe {
        specversion: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Probe>(bytes).is_ok_and(|probe| probe.specversion.is_some())
}

fn malformed(error: serde_json::Error) -> Problem {
    Problem::Wrong(format!("not JSON: {error}"))
}
