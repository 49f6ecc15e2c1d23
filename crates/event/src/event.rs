//! The event itself: the context attributes in the order they came, and the data as the exact bytes its
//! producer wrote.
//!
//! One type serves both sides of every format. A decoder borrows what it can from its input, so that an event
//! passes a node without its texts being copied; [`Event::into_owned`] cuts it loose. Whatever a decoder or
//! [`Event::set`] accepted keeps the promises of CloudEvents 1.0.2: `id`, `source` and `type` are there and not
//! empty, names are lower-case letters and digits and occur once, every value is of its type and every text
//! allowed. So encoders need not fail.
//!
//! Two names are ours: `flowposition` and `flowtime` say where an event stands in the stream it was delivered
//! from. They are the [`Stamp`], not attributes: a decoder takes them out of the attributes and offers them as
//! [`Event::stamp`], an encoder writes those it is given. So an event that is published again elsewhere never
//! carries the place it had in another stream, whatever its publisher sent.

use std::borrow::Cow;

use crate::error::{Error, Kind, quote};
use crate::flow::{Position, Time};
use crate::timestamp::Timestamp;
use crate::value::{self, Value};

/// The version of the specification every event here follows.
pub const SPECVERSION: &str = "1.0";
/// The attribute that carries [`Stamp::position`], as a decimal String.
pub const FLOWPOSITION: &str = "flowposition";
/// The attribute that carries [`Stamp::time`], as a Timestamp.
pub const FLOWTIME: &str = "flowtime";

/// One CloudEvent. See the module's head for what every value of this type promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    id: Cow<'a, str>,
    source: Cow<'a, str>,
    ty: Cow<'a, str>,
    attributes: Vec<(Cow<'a, str>, Value<'a>)>,
    data: Option<Data<'a>>,
    extra: Option<Cow<'a, [u8]>>,
    stamp: Option<Stamp>,
}

/// The payload: its exact bytes and how an envelope carried them. Empty data is not absent data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// The bytes as the producer wrote them.
    pub bytes: Cow<'a, [u8]>,
    /// How an envelope carried them.
    pub form: Form<'a>,
}

/// How an envelope carries data: a hint for the next envelope, no part of the event's meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Form<'a> {
    /// As text. Only where the bytes are UTF-8; [`Data::text`] and the decoders see to it, encoders look again.
    Text,
    /// As bytes.
    #[default]
    Binary,
    /// As a protobuf `Any`: `bytes` is the serialized message of this type.
    Proto {
        /// The `Any`'s type URL.
        type_url: Cow<'a, str>,
    },
}

/// Where and when an event was appended to the stream it is delivered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// `flowposition`.
    pub position: Position,
    /// `flowtime`.
    pub time: Time,
}

impl Stamp {
    /// The time as an attribute's value.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp<'static> {
        Timestamp::from_millis(self.time)
    }
}

impl<'a> Data<'a> {
    /// Data carried as text.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        let bytes = match text.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Self { bytes, form: Form::Text }
    }

    /// Data carried as bytes.
    pub fn binary(bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { bytes: bytes.into(), form: Form::Binary }
    }

    /// The same data, borrowing.
    #[must_use]
    pub fn reborrow(&self) -> Data<'_> {
        let form = match &self.form {
            Form::Text => Form::Text,
            Form::Binary => Form::Binary,
            Form::Proto { type_url } => Form::Proto { type_url: Cow::Borrowed(type_url) },
        };
        Data { bytes: Cow::Borrowed(&self.bytes), form }
    }

    /// The same data, owning.
    #[must_use]
    pub fn into_owned(self) -> Data<'static> {
        let form = match self.form {
            Form::Text => Form::Text,
            Form::Binary => Form::Binary,
            Form::Proto { type_url } => Form::Proto { type_url: Cow::Owned(type_url.into_owned()) },
        };
        Data { bytes: Cow::Owned(self.bytes.into_owned()), form }
    }
}

impl<'a> Event<'a> {
    /// An event of the three attributes it must have, without data. Errors name the one that is empty or not of
    /// its type.
    pub fn new(
        id: impl Into<Cow<'a, str>>,
        source: impl Into<Cow<'a, str>>,
        ty: impl Into<Cow<'a, str>>,
    ) -> Result<Self, Error> {
        let (id, source, ty) = (id.into(), source.into(), ty.into());
        check_required("id", &id)?;
        check_required("source", &source)?;
        check_required("type", &ty)?;
        Ok(Self::of_checked(id, source, ty))
    }

    /// An event of attributes that passed [`check_required`].
    pub(crate) fn of_checked(id: Cow<'a, str>, source: Cow<'a, str>, ty: Cow<'a, str>) -> Self {
        Self { id, source, ty, attributes: Vec::new(), data: None, extra: None, stamp: None }
    }

    /// Identifies the event within its [`Event::source`].
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the event happened: a URI-reference.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What kind of thing happened.
    #[must_use]
    pub fn ty(&self) -> &str {
        &self.ty
    }

    /// An attribute by name, the four required ones included. `None` if the event has none such.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value<'_>> {
        match name {
            "id" => Some(Value::String(Cow::Borrowed(&self.id))),
            "source" => Some(Value::UriRef(Cow::Borrowed(&self.source))),
            "type" => Some(Value::String(Cow::Borrowed(&self.ty))),
            "specversion" => Some(Value::String(Cow::Borrowed(SPECVERSION))),
            _ => self.find(name).map(Value::reborrow),
        }
    }

    /// Sets an attribute, replacing its value in its place if it is there already. A `String` is taken for
    /// whatever type the specification gives the name. Errors: the name or the value is not allowed; the event
    /// is unchanged then. `flowposition` and `flowtime` are refused: a stream gives them.
    pub fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Value<'a>>) -> Result<(), Error> {
        let name = name.into();
        let value = value.into();
        let required = match &*name {
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.ty,
            "specversion" => return check_specversion(&value.text()),
            FLOWPOSITION | FLOWTIME => {
                return Err(Error::about(&name, "cannot be set: the stream that delivers an event gives it"));
            }
            _ => {
                let value = check_attribute(&name, value)?;
                match self.attributes.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, place)) => *place = value,
                    None => self.attributes.push((name, value)),
                }
                return Ok(());
            }
        };
        match value {
            Value::String(text) | Value::UriRef(text) | Value::Uri(text) => {
                check_required(&name, &text)?;
                *required = text;
                Ok(())
            }
            other => Err(Error::about(&name, format_args!("is a {}; expected a String", other.type_name()))),
        }
    }

    /// Takes an optional attribute away. The required ones stay.
    pub fn remove(&mut self, name: &str) -> Option<Value<'a>> {
        let at = self.attributes.iter().position(|(known, _)| known == name)?;
        Some(self.attributes.remove(at).1)
    }

    /// Every attribute but the four required ones, in the order they came.
    pub fn attributes(&self) -> impl ExactSizeIterator<Item = (&str, &Value<'a>)> {
        self.attributes.iter().map(|(name, value)| (&**name, value))
    }

    /// What the event is about, within its source.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.find("subject")?.as_str()
    }

    /// When it happened, as its producer said.
    #[must_use]
    pub fn time(&self) -> Option<&Timestamp<'a>> {
        match self.find("time")? {
            Value::Timestamp(time) => Some(time),
            _ => None,
        }
    }

    /// The media type of the data.
    #[must_use]
    pub fn datacontenttype(&self) -> Option<&str> {
        self.find("datacontenttype")?.as_str()
    }

    /// The schema that the data follows: an absolute URI.
    #[must_use]
    pub fn dataschema(&self) -> Option<&str> {
        self.find("dataschema")?.as_str()
    }

    /// The extension that groups events for partitioning, if it is a String and not empty.
    #[must_use]
    pub fn partitionkey(&self) -> Option<&str> {
        self.find("partitionkey")?.as_str().filter(|key| !key.is_empty())
    }

    /// What orders and groups events within a stream: `partitionkey`, else `subject`, else none.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.partitionkey().or_else(|| self.subject())
    }

    /// The payload.
    #[must_use]
    pub fn data(&self) -> Option<&Data<'a>> {
        self.data.as_ref()
    }

    /// Gives the event another payload, or none.
    pub fn set_data(&mut self, data: Option<Data<'a>>) {
        self.data = data;
    }

    /// Whether the data is JSON by its content type (absent means JSON). Says nothing of the bytes.
    #[must_use]
    pub fn is_json(&self) -> bool {
        value::is_json(self.datacontenttype())
    }

    /// What only the protocol it came by has, opaque here: kept by the protobuf form alone, in field 1001.
    #[must_use]
    pub fn extra(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }

    /// Sets what only one protocol has.
    pub fn set_extra(&mut self, extra: Option<Cow<'a, [u8]>>) {
        self.extra = extra;
    }

    /// Where the event stood in the stream it was delivered from, if it carried both `flowposition` and
    /// `flowtime` and they were well-formed. A claim of whoever sent the event; no encoder repeats it unasked.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// The size of the context: for each attribute, `specversion` included, the bytes of its name and of its
    /// value's canonical text. This is what the limit on attributes counts.
    #[must_use]
    pub fn attributes_bytes(&self) -> usize {
        let required = self.id.len() + self.source.len() + self.ty.len();
        self.attributes
            .iter()
            .fold(REQUIRED_BYTES + required, |sum, (name, value)| sum + name.len() + value.text_len())
    }

    /// The same event, borrowing.
    #[must_use]
    pub fn reborrow(&self) -> Event<'_> {
        let attributes = self.attributes.iter();
        Event {
            id: Cow::Borrowed(&self.id),
            source: Cow::Borrowed(&self.source),
            ty: Cow::Borrowed(&self.ty),
            attributes: attributes.map(|(name, value)| (Cow::Borrowed(&**name), value.reborrow())).collect(),
            data: self.data.as_ref().map(Data::reborrow),
            extra: self.extra.as_deref().map(Cow::Borrowed),
            stamp: self.stamp,
        }
    }

    /// The same event, owning all it holds.
    #[must_use]
    pub fn into_owned(self) -> Event<'static> {
        let attributes = self.attributes.into_iter();
        Event {
            id: Cow::Owned(self.id.into_owned()),
            source: Cow::Owned(self.source.into_owned()),
            ty: Cow::Owned(self.ty.into_owned()),
            attributes: attributes
                .map(|(name, value)| (Cow::Owned(name.into_owned()), value.into_owned()))
                .collect(),
            data: self.data.map(Data::into_owned),
            extra: self.extra.map(|extra| Cow::Owned(extra.into_owned())),
            stamp: self.stamp,
        }
    }

    fn find(&self, name: &str) -> Option<&Value<'a>> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Sets all optional attributes to those that a decoder has checked, each name once.
    pub(crate) fn set_checked(&mut self, attributes: Vec<(Cow<'a, str>, Value<'a>)>) {
        self.attributes = attributes;
    }

    /// Sets the stamp from the texts of both attributes, if both are there and well-formed.
    pub(crate) fn set_stamp(&mut self, position: Option<&str>, time: Option<&str>) {
        self.stamp = parse_stamp(position, time);
    }
}

/// Bytes of the names of the required attributes and of the value of `specversion`.
pub(crate) const REQUIRED_BYTES: usize =
    "id".len() + "source".len() + "type".len() + "specversion".len() + SPECVERSION.len();

fn parse_stamp(position: Option<&str>, time: Option<&str>) -> Option<Stamp> {
    let position: Position = position?.parse().ok()?;
    let time = Timestamp::parse(time?)?.unix_millis().map(Time)?;
    Some(Stamp { position, time })
}

/// Checks one of `id`, `source`, `type`.
pub(crate) fn check_required(name: &str, text: &str) -> Result<(), Error> {
    let checked = if name == "source" { value::check_uri_reference(text) } else { value::check_text(text) };
    checked.map_err(|what| Error::about(name, what))
}

/// Checks `specversion`.
pub(crate) fn check_specversion(text: &str) -> Result<(), Error> {
    if text == SPECVERSION {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        format!("attribute \"specversion\" is {}; expected \"1.0\"", quote(text)),
    ))
}

/// A required attribute is not there.
#[cold]
pub(crate) fn missing(name: &str) -> Error {
    Error::about(name, "is missing; every event must have id, source, specversion and type")
}

/// A batch holds more events than the limit.
#[cold]
pub(crate) fn too_many(events_max: usize) -> Error {
    Error::new(Kind::TooMany, format!("the batch holds more than {events_max} events"))
}

/// An attribute is there twice.
#[cold]
pub(crate) fn duplicate(name: &str) -> Error {
    Error::about(name, "is given twice")
}

/// Checks the name and the value of an optional attribute, and gives the value the type that the specification
/// gives the name.
pub(crate) fn check_attribute<'a>(name: &str, value: Value<'a>) -> Result<Value<'a>, Error> {
    value::check_name(name.as_bytes()).map_err(|what| Error::about(name, what))?;
    check_value(name, value)
}

/// [`check_attribute`] for a name that passed.
pub(crate) fn check_value<'a>(name: &str, value: Value<'a>) -> Result<Value<'a>, Error> {
    let fail = |what: &str| Error::about(name, what);
    let wrong = |value: &Value<'_>, expected: &str| {
        Error::about(name, format_args!("is of type {}; expected {expected}", value.type_name()))
    };
    match (name, value) {
        ("subject", Value::String(text)) => {
            value::check_text(&text).map_err(fail)?;
            Ok(Value::String(text))
        }
        ("datacontenttype", Value::String(text)) => {
            value::check_media_type(&text).map_err(fail)?;
            Ok(Value::String(text))
        }
        ("dataschema", Value::String(text) | Value::Uri(text) | Value::UriRef(text)) => {
            value::check_uri(&text).map_err(fail)?;
            Ok(Value::Uri(text))
        }
        ("time", Value::Timestamp(time)) => Ok(Value::Timestamp(time)),
        ("time", Value::String(text)) => Timestamp::try_parse(text).map(Value::Timestamp).map_err(|text| {
            let quoted = quote(&text);
            Error::about(
                name,
                format_args!("is {quoted}; expected an RFC 3339 time, as 2026-01-31T12:00:00Z"),
            )
        }),
        ("subject" | "datacontenttype", value) => Err(wrong(&value, "a String")),
        ("dataschema", value) => Err(wrong(&value, "a URI")),
        ("time", value) => Err(wrong(&value, "a Timestamp")),
        (_, value) => {
            value.check().map_err(fail)?;
            Ok(value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_attributes_are_checked() {
        assert!(Event::new("1", "/a", "t").is_ok());
        for (id, source, ty, name) in [
            ("", "/a", "t", "id"),
            ("1", "", "t", "source"),
            ("1", "a b", "t", "source"),
            ("1", "/a", "\n", "type"),
        ] {
            let error = Event::new(id, source, ty).unwrap_err();
            assert_eq!((error.kind(), error.attribute()), (Kind::Attribute, Some(name)));
        }
    }

    #[test]
    fn attributes_are_set_in_order_and_typed() {
        let mut event = Event::new("1", "/a", "t").unwrap();
        event.set("time", "2018-04-05T17:31:00+02:00").unwrap();
        event.set("dataschema", "https://example.com/s").unwrap();
        event.set("n", 7).unwrap();
        event.set("subject", "s").unwrap();
        event.set("n", 8).unwrap();
        event.set("id", "2").unwrap();
        event.set("specversion", "1.0").unwrap();
        assert_eq!(event.id(), "2");
        let names: Vec<_> = event.attributes().map(|(name, _)| name).collect();
        assert_eq!(names, ["time", "dataschema", "n", "subject"]);
        assert_eq!(event.get("n"), Some(Value::Integer(8)));
        assert_eq!(event.get("dataschema").unwrap().type_name(), "URI");
        assert_eq!(event.time().unwrap().text(), "2018-04-05T17:31:00+02:00");
        assert_eq!(event.get("source").unwrap().type_name(), "URI-reference");
        assert_eq!(event.key(), Some("s"));
        event.set("partitionkey", "p").unwrap();
        assert_eq!(event.key(), Some("p"));
        assert_eq!(event.remove("n"), Some(Value::Integer(8)));
        let text: usize = event
            .attributes()
            .map(|(name, value)| name.len() + value.text().len())
            .chain(["id2", "source/a", "typet", "specversion1.0"].map(str::len))
            .sum();
        assert_eq!(event.attributes_bytes(), text);
        assert_eq!(event.clone().into_owned(), event);
        assert_eq!(event.reborrow(), event);
    }

    #[test]
    fn what_is_not_allowed_changes_nothing() {
        let event = Event::new("1", "/a", "t").unwrap();
        for (name, value) in [
            ("Upper", Value::from("x")),
            ("data", Value::from("x")),
            ("x", Value::from("\u{1}")),
            ("time", Value::from("now")),
            ("time", Value::from(1)),
            ("subject", Value::from("")),
            ("subject", Value::from(true)),
            ("datacontenttype", Value::from("json")),
            ("dataschema", Value::from("/relative")),
            ("specversion", Value::from("0.3")),
            ("id", Value::from("")),
            ("id", Value::from(3)),
            ("u", Value::Uri("relative".into())),
            ("flowposition", Value::from("1")),
        ] {
            let mut changed = event.clone();
            assert!(changed.set(name, value.clone()).is_err(), "{name} {value:?}");
            assert_eq!(changed, event);
        }
    }

    #[test]
    fn a_stamp_needs_both_attributes_well_formed() {
        let stamp = Stamp { position: Position(41), time: Time(1_500) };
        assert_eq!(parse_stamp(Some("41"), Some("1970-01-01T00:00:01.500Z")), Some(stamp));
        for (position, time) in [
            (None, Some("1970-01-01T00:00:01Z")),
            (Some("41"), None),
            (Some("-1"), Some("1970-01-01T00:00:01Z")),
            (Some("41"), Some("1969-01-01T00:00:01Z")),
        ] {
            assert_eq!(parse_stamp(position, time), None);
        }
    }
}
