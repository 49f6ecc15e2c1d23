//! The JSON format and its batch: what people and most programs read.
//!
//! CloudEvents 1.0.2 JSON Event Format. What matters here is that `data` keeps its bytes: of a JSON payload
//! (by `datacontenttype`, or none given) the member's text as it stands is the data, down to the spacing; of
//! any other payload `data` must be a string, whose value in UTF-8 is the data; `data_base64` is decoded. On the
//! way out the same rule is run backwards, so that whoever reads the output gets the bytes that came in: JSON that
//! is JSON stands raw, text stands as a string, and whatever would not come back the same leaves as
//! `data_base64`: bytes that are not the JSON they are said to be, JSON with white space around it, and, where
//! the event must fit on one line, JSON with line breaks in it.
//!
//! Strict on the way in: valid UTF-8 and JSON to the letter, a member given twice (also as `null`) is an error,
//! so are names that are no attribute names, numbers that are no 32-bit integers, arrays and objects as
//! values. A member that is `null` is absent, but `"data": null` is the JSON text `null`. Nesting of data is
//! bounded (120 levels).
//!
//! `flowposition` and `flowtime` are the [`Stamp`], see [`Event::stamp`].

mod scan;

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD, Engine as _};

use self::scan::{Scanner, Token};
use crate::error::{Error, quote};
use crate::event::{self, Data, Event, FLOWPOSITION, FLOWTIME, Form, Stamp, check_required};
use crate::names::Names;
use crate::timestamp;
use crate::value::{self, Value};

/// Reads one event.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, Error> {
    let mut scanner = Scanner::new(utf8(bytes)?);
    let event = read_event(&mut scanner)?;
    scanner.end()?;
    Ok(event)
}

/// Reads a batch of at most `events_max` events. An error says which event it is about;
/// [`Kind::TooMany`](crate::Kind::TooMany) that there are more.
pub fn decode_batch(bytes: &[u8], events_max: usize) -> Result<Vec<Event<'_>>, Error> {
    let mut events = Vec::new();
    for event in batch(bytes) {
        if events.len() == events_max {
            return Err(event::too_many(events_max));
        }
        events.push(event?);
    }
    Ok(events)
}

/// The events of a batch, in order, read as they are asked for.
///
/// Ends after the first error, which says which event it is about. That the batch's end is as it should be is
/// known only after the last event.
#[must_use]
pub fn batch(bytes: &[u8]) -> Batch<'_> {
    let state = match utf8(bytes) {
        Ok(text) => State::Start(Scanner::new(text)),
        Err(error) => State::Failed(error),
    };
    Batch { state, index: 0 }
}

/// See [`batch`].
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    state: State<'a>,
    index: usize,
}

#[derive(Clone, Debug)]
enum State<'a> {
    Failed(Error),
    Start(Scanner<'a>),
    Between(Scanner<'a>),
    Done,
}

impl<'a> Batch<'a> {
    fn read(&mut self, scanner: &mut Scanner<'a>, first: bool) -> Result<Option<Event<'a>>, Error> {
        if first {
            scanner.expect(b'[', "expected an array of events")?;
        }
        if scanner.take(b']') {
            scanner.end()?;
            return Ok(None);
        }
        if !first {
            scanner.expect(b',', "expected a comma or a closing bracket after an event")?;
        }
        let event = read_event(scanner).map_err(|error| error.at_index(self.index))?;
        self.index += 1;
        Ok(Some(event))
    }
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<Event<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut scanner, first) = match std::mem::replace(&mut self.state, State::Done) {
            State::Failed(error) => return Some(Err(error)),
            State::Start(scanner) => (scanner, true),
            State::Between(scanner) => (scanner, false),
            State::Done => return None,
        };
        let event = self.read(&mut scanner, first).transpose()?;
        if event.is_ok() {
            self.state = State::Between(scanner);
        }
        Some(event)
    }
}

/// Appends one event on one line, without a line break anywhere: fit for SSE and NDJSON as it stands.
pub fn encode(event: &Event<'_>, stamp: Option<Stamp>, out: &mut Vec<u8>) {
    write_event(event, stamp, Lines::One, out);
}

/// Appends one event whose JSON data may span lines, for bodies that hold one event or a batch.
pub fn encode_document(event: &Event<'_>, stamp: Option<Stamp>, out: &mut Vec<u8>) {
    write_event(event, stamp, Lines::Any, out);
}

/// Begins a batch.
pub fn batch_start(out: &mut Vec<u8>) {
    out.push(b'[');
}

/// Appends an event to a batch begun with [`batch_start`].
pub fn batch_push(event: &Event<'_>, stamp: Option<Stamp>, out: &mut Vec<u8>) {
    // An event ends with a brace, so that a bracket can only be the batch's own.
    if out.last() != Some(&b'[') {
        out.push(b',');
    }
    write_event(event, stamp, Lines::Any, out);
}

/// Ends a batch.
pub fn batch_end(out: &mut Vec<u8>) {
    out.push(b']');
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|broken| {
        Error::malformed("not valid JSON: the text is not valid UTF-8").at_offset(broken.valid_up_to())
    })
}

/// Reads the event that begins at the scanner.
fn read_event<'a>(scanner: &mut Scanner<'a>) -> Result<Event<'a>, Error> {
    scanner.expect(b'{', "expected an event, which is an object")?;
    let (mut id, mut source, mut specversion, mut ty) = (None, None, None, None);
    let (mut position, mut time): (Option<Value<'a>>, Option<Value<'a>>) = (None, None);
    let (mut data, mut data_base64) = (None, None);
    let mut attributes = Vec::with_capacity(8);
    let mut names = Names::default();
    let mut more = !scanner.take(b'}');
    while more {
        let name = scanner.name()?.text()?;
        if name == "data" {
            if data.replace(scanner.raw()?).is_some() {
                return Err(member_twice("data"));
            }
        } else {
            if name != "data_base64" {
                value::check_name(name.as_bytes()).map_err(|what| Error::about(&name, what))?;
            }
            let token = scanner.token()?;
            if !names.insert(name.clone()) {
                return Err(if name == "data_base64" {
                    member_twice(&name)
                } else {
                    event::duplicate(&name)
                });
            }
            match &*name {
                "data_base64" => data_base64 = read_base64(token)?,
                _ => {
                    if let Some(value) = read_value(&name, token)? {
                        match &*name {
                            "id" => id = Some(required("id", value)?),
                            "source" => source = Some(required("source", value)?),
                            "type" => ty = Some(required("type", value)?),
                            "specversion" => specversion = Some(text("specversion", value)?),
                            FLOWPOSITION => position = Some(value),
                            FLOWTIME => time = Some(value),
                            _ => {
                                let value = event::check_value(&name, value)?;
                                attributes.push((name, value));
                            }
                        }
                    }
                }
            }
        }
        more = scanner.take(b',');
        if !more {
            scanner.expect(b'}', "expected a comma or a closing brace")?;
        }
    }
    event::check_specversion(&specversion.ok_or_else(|| event::missing("specversion"))?)?;
    let missing = |name: &'static str| move || event::missing(name);
    let id = id.ok_or_else(missing("id"))?;
    let source = source.ok_or_else(missing("source"))?;
    let mut event = Event::of_checked(id, source, ty.ok_or_else(missing("type"))?);
    event.set_checked(attributes);
    if let (Some(position), Some(time)) = (position, time) {
        event.set_stamp(Some(&position.text()), Some(&time.text()));
    }
    let data = match (data, data_base64) {
        (Some(_), Some(_)) => {
            return Err(Error::malformed("the event has both data and data_base64; expected one of them"));
        }
        (Some(raw), None) => Some(read_data(raw, event.datacontenttype())?),
        (None, data) => data,
    };
    event.set_data(data);
    Ok(event)
}

/// An attribute's value; `None` for `null`.
fn read_value<'a>(name: &str, token: Token<'a>) -> Result<Option<Value<'a>>, Error> {
    let wrong = |what: &str| {
        Err(Error::about(name, format_args!("is {what}; expected a string, a 32-bit integer, true or false")))
    };
    Ok(Some(match token {
        Token::Null => return Ok(None),
        Token::Boolean(value) => Value::Boolean(value),
        Token::String(raw) => Value::String(raw.text()?),
        // Rust's integers read exactly what the scanner lets through as digits with a minus.
        Token::Number(number) => match number.parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => return wrong(&format!("the number {}", quote(number))),
        },
        Token::Array => return wrong("an array"),
        Token::Object => return wrong("an object"),
    }))
}

/// The text of an attribute that must be a String.
fn text<'a>(name: &str, value: Value<'a>) -> Result<Cow<'a, str>, Error> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(Error::about(name, format_args!("is a {}; expected a String", other.type_name()))),
    }
}

fn required<'a>(name: &str, value: Value<'a>) -> Result<Cow<'a, str>, Error> {
    let text = text(name, value)?;
    check_required(name, &text)?;
    Ok(text)
}

fn read_base64(token: Token<'_>) -> Result<Option<Data<'_>>, Error> {
    let broken = || Error::malformed("data_base64 is not base64 (RFC 4648 section 4, with padding)");
    match token {
        Token::Null => Ok(None),
        Token::String(raw) => {
            let bytes = BASE64_STANDARD.decode(raw.text()?.as_bytes()).map_err(|_| broken())?;
            Ok(Some(Data::binary(bytes)))
        }
        _ => Err(Error::malformed("data_base64 is not a string")),
    }
}

/// The data that the member `data` says.
fn read_data<'a>(raw: &'a str, datacontenttype: Option<&str>) -> Result<Data<'a>, Error> {
    if value::is_json(datacontenttype) {
        return Ok(Data::text(raw));
    }
    match Scanner::new(raw).token()? {
        Token::String(raw) => raw.text().map(Data::text),
        _ => Err(Error::malformed(format!(
            "data is not a string; under the content type {} expected a string, or data_base64",
            quote(datacontenttype.unwrap_or_default())
        ))),
    }
}

#[cold]
fn member_twice(name: &str) -> Error {
    Error::malformed(format!("the member {name} is given twice"))
}

/// Whether an event may span lines.
#[derive(Clone, Copy, PartialEq)]
enum Lines {
    One,
    Any,
}

fn write_event(event: &Event<'_>, stamp: Option<Stamp>, lines: Lines, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":");
    write_string(event.id(), out);
    out.extend_from_slice(b",\"source\":");
    write_string(event.source(), out);
    out.extend_from_slice(b",\"type\":");
    write_string(event.ty(), out);
    for (name, value) in event.attributes() {
        // A name is letters and digits: it needs no escapes.
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        write_value(value, out);
    }
    if let Some(stamp) = stamp {
        out.extend_from_slice(b",\"flowposition\":\"");
        out.extend_from_slice(itoa::Buffer::new().format(stamp.position.0).as_bytes());
        out.extend_from_slice(b"\",\"flowtime\":\"");
        let mut buffer = [0; timestamp::TEXT_MAX];
        out.extend_from_slice(timestamp::millis_text(stamp.time, &mut buffer).as_bytes());
        out.push(b'"');
    }
    if let Some(data) = event.data() {
        write_data(data, event.is_json(), lines, out);
    }
    out.push(b'}');
}

fn write_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Boolean(true) => out.extend_from_slice(b"true"),
        Value::Boolean(false) => out.extend_from_slice(b"false"),
        Value::Integer(value) => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
        Value::String(text) | Value::Uri(text) | Value::UriRef(text) => write_string(text, out),
        Value::Binary(bytes) => write_base64(bytes, out),
        Value::Timestamp(time) => {
            out.push(b'"');
            time.write_to(out);
            out.push(b'"');
        }
    }
}

fn write_data(data: &Data<'_>, is_json: bool, lines: Lines, out: &mut Vec<u8>) {
    let bytes = &*data.bytes;
    if is_json {
        let breaks = lines == Lines::One && memchr::memchr2(b'\n', b'\r', bytes).is_some();
        if !breaks && std::str::from_utf8(bytes).is_ok() && scan::is_value(bytes) {
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(bytes);
            return;
        }
    } else if data.form == Form::Text
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        out.extend_from_slice(b",\"data\":");
        write_string(text, out);
        return;
    }
    out.extend_from_slice(b",\"data_base64\":");
    write_base64(bytes, out);
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + value::base64_len(bytes.len()), 0);
    let written = BASE64_STANDARD.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(written.ok(), Some(out.len() - start), "base64_len says the length");
    out.push(b'"');
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut start = 0;
    loop {
        let at = scan::special(bytes, start);
        out.extend_from_slice(&bytes[start..at]);
        let Some(byte) = bytes.get(at) else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
            }
        }
        start = at + 1;
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests;
