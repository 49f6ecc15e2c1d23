//! The protobuf format: what events are stored as, and the fastest way in and out.
//!
//! CloudEvents 1.0.2 Protobuf Event Format (`cloudevents.proto`, package `io.cloudevents.v1`), read and written
//! by hand: decoding borrows every text and byte from its input, and [`validate`] checks all that [`decode`]
//! checks, by the same code, without building an event or allocating. A publisher's batch that passes is stored
//! as it came, byte for byte; a stored run is such a batch.
//!
//! Stricter than protobuf's usual reader, since two readers of one stored event must not see two events: a
//! field of the event that stands twice, two members of a `oneof`, a map key that stands twice, an attribute
//! without a value, an `int32` that needs more than 32 bits, and anything but events in a batch are errors.
//! Fields unknown to us are passed over, as protobuf asks, and stay in the stored bytes.
//!
//! Two fields are ours, out of reach of the specification's own numbers, and ignored by other readers:
//!
//! - `CloudEventAttributeValue.1000`, a string beside `ce_timestamp`: the RFC 3339 text of the time, where
//!   it is not the one every reader would print (another offset, other digits). It must say the same instant.
//! - `CloudEvent.1001`, bytes: what only one protocol has ([`Event::extra`]).
//!
//! `time`, `dataschema`, `subject` and `datacontenttype` may stand as `ce_string` instead of their own type.
//! Attributes named `flowposition` and `flowtime` are the [`Stamp`], see [`Event::stamp`].

use std::borrow::Cow;

use crate::error::{Error, quote};
use crate::event::{
    self, Data, Event, FLOWPOSITION, FLOWTIME, Form, REQUIRED_BYTES, SPECVERSION, Stamp, check_required,
};
use crate::names::Names;
use crate::timestamp::Timestamp;
use crate::value::{self, Value};

/// Field number, in `CloudEventAttributeValue`, of a Timestamp's exact text.
pub const FIELD_TEXT: u32 = 1000;
/// Field number, in `CloudEvent`, of what only one protocol has.
pub const FIELD_EXTRA: u32 = 1001;

/// What admission needs to know of an event that stays in its protobuf form. Borrowed from the input.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary<'a> {
    /// `id`
    pub id: &'a str,
    /// `source`
    pub source: &'a str,
    /// `type`
    pub ty: &'a str,
    /// `subject`
    pub subject: Option<&'a str>,
    /// `partitionkey`, if it is a text and not empty
    pub partitionkey: Option<&'a str>,
    /// `datacontenttype`
    pub datacontenttype: Option<&'a str>,
    /// The data, if any.
    pub data: Option<&'a [u8]>,
    /// As [`Event::attributes_bytes`].
    pub attributes_bytes: usize,
    /// The event carries `flowposition` or `flowtime`. They must not be stored: decode it and encode it anew.
    pub stamped: bool,
}

impl<'a> Summary<'a> {
    /// What orders and groups events within a stream: `partitionkey`, else `subject`, else none.
    #[must_use]
    pub fn key(&self) -> Option<&'a str> {
        self.partitionkey.or(self.subject)
    }

    /// Whether the data is JSON by its content type (absent means JSON).
    #[must_use]
    pub fn is_json(&self) -> bool {
        value::is_json(self.datacontenttype)
    }
}

/// Reads one event.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, Error> {
    let mut attributes = Vec::with_capacity(8);
    let parts = read_event(bytes, |name, value| attributes.push((Cow::Borrowed(name), value)))?;
    let borrowed = Cow::Borrowed;
    let mut event = Event::of_checked(borrowed(parts.id), borrowed(parts.source), borrowed(parts.ty));
    event.set_checked(attributes);
    event.set_data(parts.data);
    event.set_extra(parts.extra.map(Cow::Borrowed));
    let text = |value: &Option<Value<'_>>| value.as_ref().map(|value| value.text().into_owned());
    event.set_stamp(text(&parts.position).as_deref(), text(&parts.time).as_deref());
    Ok(event)
}

/// Checks one event as [`decode`] does, and says what admission needs of it, without allocating.
pub fn validate(bytes: &[u8]) -> Result<Summary<'_>, Error> {
    let (mut subject, mut partitionkey, mut datacontenttype) = (None, None, None);
    let mut attributes_bytes = REQUIRED_BYTES;
    let parts = read_event(bytes, |name, value| {
        attributes_bytes += name.len() + value.text_len();
        if let Value::String(Cow::Borrowed(text))
        | Value::Uri(Cow::Borrowed(text))
        | Value::UriRef(Cow::Borrowed(text)) = value
        {
            match name {
                "subject" => subject = Some(text),
                "partitionkey" if !text.is_empty() => partitionkey = Some(text),
                "datacontenttype" => datacontenttype = Some(text),
                _ => {}
            }
        }
    })?;
    attributes_bytes += parts.id.len() + parts.source.len() + parts.ty.len();
    let data = match parts.data {
        Some(Data { bytes: Cow::Borrowed(bytes), .. }) => Some(bytes),
        _ => None,
    };
    let stamped = parts.position.is_some() || parts.time.is_some();
    let Parts { id, source, ty, .. } = parts;
    Ok(Summary { id, source, ty, subject, partitionkey, datacontenttype, data, attributes_bytes, stamped })
}

/// Appends one event, without a length before it.
pub fn encode(event: &Event<'_>, out: &mut Vec<u8>) {
    put_bytes(out, ID, event.id().as_bytes());
    put_bytes(out, SOURCE, event.source().as_bytes());
    put_bytes(out, SPEC_VERSION, SPECVERSION.as_bytes());
    put_bytes(out, TYPE, event.ty().as_bytes());
    for (name, value) in event.attributes() {
        put_attribute(out, name, value);
    }
    if let Some(data) = event.data() {
        match &data.form {
            Form::Text if std::str::from_utf8(&data.bytes).is_ok() => put_bytes(out, TEXT_DATA, &data.bytes),
            Form::Text | Form::Binary => put_bytes(out, BINARY_DATA, &data.bytes),
            Form::Proto { type_url } => {
                out.push(PROTO_DATA);
                put_varint(out, (field_len(type_url.len()) + field_len(data.bytes.len())) as u64);
                put_bytes(out, ANY_TYPE_URL, type_url.as_bytes());
                put_bytes(out, ANY_VALUE, &data.bytes);
            }
        }
    }
    if let Some(extra) = event.extra() {
        put_varint(out, u64::from(FIELD_EXTRA << 3 | WIRE_BYTES));
        put_varint(out, extra.len() as u64);
        out.extend_from_slice(extra);
    }
}

/// How many bytes [`encode`] appends.
#[must_use]
pub fn encoded_len(event: &Event<'_>) -> usize {
    let texts = [event.id(), event.source(), SPECVERSION, event.ty()];
    let required: usize = texts.iter().map(|text| field_len(text.len())).sum();
    let attributes: usize =
        event.attributes().map(|(name, value)| field_len(entry_len(name, value_len(value)))).sum();
    let data = event.data().map_or(0, |data| match &data.form {
        Form::Text | Form::Binary => field_len(data.bytes.len()),
        Form::Proto { type_url } => field_len(field_len(type_url.len()) + field_len(data.bytes.len())),
    });
    let extra = event.extra().map_or(0, |extra| 1 + field_len(extra.len()));
    required + attributes + data + extra
}

/// Appends one event as an entry of a batch: tag, length, event.
pub fn push(event: &Event<'_>, out: &mut Vec<u8>) {
    let len = encoded_len(event);
    out.reserve(len + 11);
    out.push(EVENTS);
    put_varint(out, len as u64);
    let start = out.len();
    encode(event, out);
    debug_assert_eq!(out.len() - start, len, "encoded_len and encode disagree");
}

/// Appends one event that is encoded already as an entry of a batch.
pub fn push_encoded(event: &[u8], out: &mut Vec<u8>) {
    put_bytes(out, EVENTS, event);
}

/// [`push_encoded`] with `flowposition` and `flowtime` added: how a stored event leaves alone. The event is
/// taken as stored, without a stamp of its own.
pub fn push_stamped(event: &[u8], stamp: Stamp, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let position = Value::String(Cow::Borrowed(digits.format(stamp.position.0)));
    let time = Value::Timestamp(stamp.timestamp());
    let len = event.len()
        + field_len(entry_len(FLOWPOSITION, value_len(&position)))
        + field_len(entry_len(FLOWTIME, value_len(&time)));
    out.reserve(len + 11);
    out.push(EVENTS);
    put_varint(out, len as u64);
    out.extend_from_slice(event);
    put_attribute(out, FLOWPOSITION, &position);
    put_attribute(out, FLOWTIME, &time);
}

/// Reads a batch of at most `events_max` events. An error says which event it is about;
/// [`Kind::TooMany`](crate::Kind::TooMany) that there are more.
pub fn decode_batch(bytes: &[u8], events_max: usize) -> Result<Vec<Event<'_>>, Error> {
    let mut events = Vec::new();
    for (index, event) in batch(bytes).enumerate() {
        if index == events_max {
            return Err(event::too_many(events_max));
        }
        events.push(decode(event?).map_err(|error| error.at_index(index))?);
    }
    Ok(events)
}

/// The events of a batch, each as its bytes, in order.
///
/// Ends after the first error, which names the index of the event it stands before.
#[must_use]
pub fn batch(bytes: &[u8]) -> Batch<'_> {
    Batch { reader: Reader { rest: bytes }, len: bytes.len(), index: 0 }
}

/// See [`batch`].
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    reader: Reader<'a>,
    len: usize,
    index: usize,
}

impl Batch<'_> {
    /// Where, in the batch's bytes, the last event returned ends (exclusive).
    #[must_use]
    pub fn end(&self) -> usize {
        self.len - self.reader.rest.len()
    }
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<&'a [u8], Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.rest.is_empty() {
            return None;
        }
        let index = self.index;
        self.index += 1;
        let event = match self.reader.field() {
            Ok((1, Wire::Bytes(event))) => return Some(Ok(event)),
            Ok((number, _)) => Error::malformed(format!(
                "the protobuf batch holds field {number}; expected events only (field 1, length-delimited)"
            )),
            Err(broken) => broken.error("batch"),
        };
        self.reader.rest = &[];
        Some(Err(event.at_index(index)))
    }
}

// Tags: field number and wire type in one byte.
const EVENTS: u8 = 0x0a;
const ID: u8 = 0x0a;
const SOURCE: u8 = 0x12;
const SPEC_VERSION: u8 = 0x1a;
const TYPE: u8 = 0x22;
const ATTRIBUTES: u8 = 0x2a;
const BINARY_DATA: u8 = 0x32;
const TEXT_DATA: u8 = 0x3a;
const PROTO_DATA: u8 = 0x42;
const KEY: u8 = 0x0a;
const VALUE: u8 = 0x12;
const CE_BOOLEAN: u8 = 0x08;
const CE_INTEGER: u8 = 0x10;
const CE_STRING: u8 = 0x1a;
const CE_BYTES: u8 = 0x22;
const CE_URI: u8 = 0x2a;
const CE_URI_REF: u8 = 0x32;
const CE_TIMESTAMP: u8 = 0x3a;
const SECONDS: u8 = 0x08;
const NANOS: u8 = 0x10;
const ANY_TYPE_URL: u8 = 0x0a;
const ANY_VALUE: u8 = 0x12;
const WIRE_BYTES: u32 = 2;

/// An event's parts but for its attributes.
struct Parts<'a> {
    id: &'a str,
    source: &'a str,
    ty: &'a str,
    data: Option<Data<'a>>,
    extra: Option<&'a [u8]>,
    position: Option<Value<'a>>,
    time: Option<Value<'a>>,
}

/// Reads and checks one event, handing each attribute on once it is checked.
fn read_event<'a>(
    bytes: &'a [u8],
    mut attribute: impl FnMut(&'a str, Value<'a>),
) -> Result<Parts<'a>, Error> {
    let (mut id, mut source, mut specversion, mut ty) = (None, None, None, None);
    let (mut data, mut extra, mut position, mut time) = (None, None, None, None);
    let mut names = Names::default();
    let mut reader = Reader { rest: bytes };
    while !reader.rest.is_empty() {
        match reader.field().map_err(|broken| broken.error("event"))? {
            (1, Wire::Bytes(text)) => once(&mut id, utf8("id", text)?, "id")?,
            (2, Wire::Bytes(text)) => once(&mut source, utf8("source", text)?, "source")?,
            (3, Wire::Bytes(text)) => once(&mut specversion, utf8("specversion", text)?, "specversion")?,
            (4, Wire::Bytes(text)) => once(&mut ty, utf8("type", text)?, "type")?,
            (5, Wire::Bytes(entry)) => {
                let (name, value) = read_attribute(entry)?;
                if !names.insert(Cow::Borrowed(name)) {
                    return Err(event::duplicate(name));
                }
                match name {
                    FLOWPOSITION => position = Some(value),
                    FLOWTIME => time = Some(value),
                    "id" | "source" | "type" | "specversion" => {
                        return Err(Error::about(
                            name,
                            "stands among the optional attributes; it has a field of its own",
                        ));
                    }
                    _ => attribute(name, event::check_value(name, value)?),
                }
            }
            (6, Wire::Bytes(bytes)) => {
                only(&mut data, Data { bytes: Cow::Borrowed(bytes), form: Form::Binary }, "data")?;
            }
            (7, Wire::Bytes(bytes)) => {
                if std::str::from_utf8(bytes).is_err() {
                    return Err(Error::malformed(
                        "text_data is not valid UTF-8; expected binary_data for such bytes",
                    ));
                }
                only(&mut data, Data { bytes: Cow::Borrowed(bytes), form: Form::Text }, "data")?;
            }
            (8, Wire::Bytes(any)) => only(&mut data, read_any(any)?, "data")?,
            (FIELD_EXTRA, Wire::Bytes(bytes)) => {
                only(&mut extra, bytes, "field 1001")?;
            }
            (number @ (1..=8 | FIELD_EXTRA), _) => return Err(wrong_type("the event", number)),
            _ => {}
        }
    }
    event::check_specversion(specversion.ok_or_else(|| event::missing("specversion"))?)?;
    let required = |text: Option<&'a str>, name: &str| {
        let text = text.ok_or_else(|| event::missing(name))?;
        check_required(name, text)?;
        Ok::<_, Error>(text)
    };
    let (id, source, ty) = (required(id, "id")?, required(source, "source")?, required(ty, "type")?);
    Ok(Parts { id, source, ty, data, extra, position, time })
}

/// Reads one entry of the map of attributes; the name is checked, the value not yet.
fn read_attribute(entry: &[u8]) -> Result<(&str, Value<'_>), Error> {
    let (mut key, mut value) = (None, None);
    let mut reader = Reader { rest: entry };
    while !reader.rest.is_empty() {
        match reader.field().map_err(|broken| broken.error("attribute"))? {
            (1, Wire::Bytes(bytes)) if key.is_none() => key = Some(bytes),
            (2, Wire::Bytes(bytes)) if value.is_none() => value = Some(bytes),
            (number @ (1 | 2), Wire::Bytes(_)) => {
                return Err(Error::malformed(format!("field {number} of an attribute is given twice")));
            }
            (number @ (1 | 2), _) => return Err(wrong_type("an attribute", number)),
            _ => {}
        }
    }
    let key = key.unwrap_or_default();
    let name = String::from_utf8_lossy(key);
    value::check_name(key).map_err(|what| Error::about(&name, what))?;
    // A valid name is ASCII, so it was borrowed.
    let Cow::Borrowed(name) = name else { return Err(Error::malformed("an attribute's name is not UTF-8")) };
    let value = value.ok_or_else(|| no_value(name))?;
    Ok((name, read_value(name, value)?))
}

/// Reads a `CloudEventAttributeValue`.
fn read_value<'a>(name: &str, bytes: &'a [u8]) -> Result<Value<'a>, Error> {
    let text = |bytes: &'a [u8]| utf8(name, bytes).map(Cow::Borrowed);
    let (mut value, mut exact) = (None, None);
    let mut reader = Reader { rest: bytes };
    while !reader.rest.is_empty() {
        let read = match reader.field().map_err(|broken| broken.error("attribute's value"))? {
            (1, Wire::Varint(number)) => Value::Boolean(number != 0),
            (2, Wire::Varint(number)) => Value::Integer(integer(number).ok_or_else(|| {
                Error::about(name, "is a number of more than 32 bits; expected -2147483648 to 2147483647")
            })?),
            (3, Wire::Bytes(bytes)) => Value::String(text(bytes)?),
            (4, Wire::Bytes(bytes)) => Value::Binary(Cow::Borrowed(bytes)),
            (5, Wire::Bytes(bytes)) => Value::Uri(text(bytes)?),
            (6, Wire::Bytes(bytes)) => Value::UriRef(text(bytes)?),
            (7, Wire::Bytes(bytes)) => Value::Timestamp(read_timestamp(name, bytes)?),
            (FIELD_TEXT, Wire::Bytes(bytes)) => {
                once(&mut exact, utf8(name, bytes)?, name)?;
                continue;
            }
            (number @ (1..=7 | FIELD_TEXT), _) => return Err(wrong_type("an attribute's value", number)),
            _ => continue,
        };
        if value.replace(read).is_some() {
            return Err(Error::about(name, "has two values; expected one"));
        }
    }
    match (value, exact) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(no_value(name)),
        (Some(Value::Timestamp(time)), Some(exact)) => match Timestamp::parse(exact) {
            Some(parsed) if parsed.cmp_instant(&time).is_eq() => Ok(Value::Timestamp(parsed)),
            _ => Err(Error::about(
                name,
                format_args!(
                    "is {} in field 1000, which is not the time of ce_timestamp, {time}",
                    quote(exact)
                ),
            )),
        },
        (Some(_), Some(_)) => Err(Error::about(name, "has a field 1000, which only a ce_timestamp may have")),
    }
}

/// Reads a `google.protobuf.Timestamp`.
fn read_timestamp<'a>(name: &str, bytes: &[u8]) -> Result<Timestamp<'a>, Error> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader { rest: bytes };
    while !reader.rest.is_empty() {
        match reader.field().map_err(|broken| broken.error("timestamp"))? {
            (1, Wire::Varint(number)) => seconds = number.cast_signed(),
            (2, Wire::Varint(number)) => nanos = number,
            (number @ (1 | 2), _) => return Err(wrong_type("a timestamp", number)),
            _ => {}
        }
    }
    u32::try_from(nanos).ok().and_then(|nanos| Timestamp::from_unix(seconds, nanos)).ok_or_else(|| {
        Error::about(
            name,
            "is out of range; expected a time of the years 1 to 9999 with 0 to 999999999 nanoseconds",
        )
    })
}

/// Reads a `google.protobuf.Any`.
fn read_any(bytes: &[u8]) -> Result<Data<'_>, Error> {
    let (mut type_url, mut value) = (None, None);
    let mut reader = Reader { rest: bytes };
    while !reader.rest.is_empty() {
        match reader.field().map_err(|broken| broken.error("proto_data"))? {
            (1, Wire::Bytes(bytes)) if type_url.is_none() => {
                let text = std::str::from_utf8(bytes)
                    .map_err(|_| Error::malformed("the type_url of proto_data is not valid UTF-8"))?;
                type_url = Some(text);
            }
            (2, Wire::Bytes(bytes)) if value.is_none() => value = Some(bytes),
            (number @ (1 | 2), Wire::Bytes(_)) => {
                return Err(Error::malformed(format!("field {number} of proto_data is given twice")));
            }
            (number @ (1 | 2), _) => return Err(wrong_type("proto_data", number)),
            _ => {}
        }
    }
    let form = Form::Proto { type_url: Cow::Borrowed(type_url.unwrap_or_default()) };
    Ok(Data { bytes: Cow::Borrowed(value.unwrap_or_default()), form })
}

/// An `int32` as protobuf writes it: sign-extended to 64 bits.
fn integer(number: u64) -> Option<i32> {
    i32::try_from(number.cast_signed()).ok()
}

fn utf8<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::about(name, "is not valid UTF-8"))
}

fn once<'a>(place: &mut Option<&'a str>, text: &'a str, name: &str) -> Result<(), Error> {
    if place.replace(text).is_some() { Err(event::duplicate(name)) } else { Ok(()) }
}

/// Fills a place that no field may fill twice, be it by another member of its `oneof`.
fn only<T>(place: &mut Option<T>, value: T, what: &str) -> Result<(), Error> {
    if place.replace(value).is_some() {
        return Err(Error::malformed(format!("the event has {what} twice")));
    }
    Ok(())
}

#[cold]
fn no_value(name: &str) -> Error {
    Error::about(name, "has no value; expected one, or no such attribute")
}

#[cold]
fn wrong_type(place: &str, number: u32) -> Error {
    Error::malformed(format!("field {number} of {place} has the wrong protobuf wire type"))
}

/// A field's value as it lies on the wire. What has a fixed width is in no message of ours.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// How a message's bytes are broken.
#[derive(Clone, Copy)]
enum Broken {
    Truncated,
    Varint,
    Tag,
}

impl Broken {
    #[cold]
    fn error(self, message: &str) -> Error {
        Error::malformed(match self {
            Broken::Truncated => format!("the protobuf of the {message} is cut short"),
            Broken::Varint => format!("the protobuf of the {message} holds a number of more than 64 bits"),
            Broken::Tag => format!("the protobuf of the {message} holds a field with an impossible tag"),
        })
    }
}

/// Reads the fields of one message.
#[derive(Clone, Debug)]
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next field. The caller knows that there is one.
    #[inline]
    fn field(&mut self) -> Result<(u32, Wire<'a>), Broken> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Broken::Tag)?;
        let number = tag >> 3;
        if number == 0 {
            return Err(Broken::Tag);
        }
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Fixed)?,
            WIRE_BYTES => {
                let len = usize::try_from(self.varint()?).map_err(|_| Broken::Truncated)?;
                Wire::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Wire::Fixed)?,
            // Groups (3 and 4) are older than every version of this message.
            _ => return Err(Broken::Tag),
        };
        Ok((number, wire))
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Broken::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Broken> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            [low, high, rest @ ..] if *high < 0x80 => {
                self.rest = rest;
                Ok(u64::from(low & 0x7f) | u64::from(*high) << 7)
            }
            _ => self.varint_long(),
        }
    }

    fn varint_long(&mut self) -> Result<u64, Broken> {
        let mut value = 0u64;
        for (at, byte) in self.rest.iter().enumerate() {
            let bits = u64::from(byte & 0x7f);
            if at == 9 && bits > 1 || at > 9 {
                return Err(Broken::Varint);
            }
            value |= bits << (7 * at);
            if *byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(Broken::Truncated)
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_attribute(out: &mut Vec<u8>, name: &str, value: &Value<'_>) {
    let value_len = value_len(value);
    out.push(ATTRIBUTES);
    put_varint(out, entry_len(name, value_len) as u64);
    put_bytes(out, KEY, name.as_bytes());
    out.push(VALUE);
    put_varint(out, value_len as u64);
    match value {
        Value::Boolean(value) => out.extend_from_slice(&[CE_BOOLEAN, u8::from(*value)]),
        Value::Integer(value) => {
            out.push(CE_INTEGER);
            put_varint(out, i64::from(*value).cast_unsigned());
        }
        Value::String(text) => put_bytes(out, CE_STRING, text.as_bytes()),
        Value::Binary(bytes) => put_bytes(out, CE_BYTES, bytes),
        Value::Uri(text) => put_bytes(out, CE_URI, text.as_bytes()),
        Value::UriRef(text) => put_bytes(out, CE_URI_REF, text.as_bytes()),
        Value::Timestamp(time) => {
            out.push(CE_TIMESTAMP);
            put_varint(out, timestamp_len(time) as u64);
            if time.seconds() != 0 {
                out.push(SECONDS);
                put_varint(out, time.seconds().cast_unsigned());
            }
            if time.nanos() != 0 {
                out.push(NANOS);
                put_varint(out, u64::from(time.nanos()));
            }
            if let Some(text) = time.exact_text() {
                put_varint(out, u64::from(FIELD_TEXT << 3 | WIRE_BYTES));
                put_varint(out, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn varint_len(value: u64) -> usize {
    (value | 1).ilog2() as usize / 7 + 1
}

/// Tag of one byte, length, bytes.
fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn entry_len(name: &str, value_len: usize) -> usize {
    field_len(name.len()) + field_len(value_len)
}

fn timestamp_len(time: &Timestamp<'_>) -> usize {
    let number = |value: u64| if value == 0 { 0 } else { 1 + varint_len(value) };
    number(time.seconds().cast_unsigned()) + number(u64::from(time.nanos()))
}

fn value_len(value: &Value<'_>) -> usize {
    match value {
        Value::Boolean(_) => 2,
        Value::Integer(value) => 1 + varint_len(i64::from(*value).cast_unsigned()),
        Value::String(text) | Value::Uri(text) | Value::UriRef(text) => field_len(text.len()),
        Value::Binary(bytes) => field_len(bytes.len()),
        Value::Timestamp(time) => {
            // The tag of field 1000 has two bytes.
            field_len(timestamp_len(time)) + time.exact_text().map_or(0, |text| 1 + field_len(text.len()))
        }
    }
}

#[cfg(test)]
mod tests;
