//! The HTTP binding without HTTP: which mode a message is in, and how an event becomes headers and a body.
//!
//! CloudEvents 1.0.2 HTTP Protocol Binding. A message is in structured or batched mode if its content type
//! begins with `application/cloudevents`, else in binary mode, where each attribute is a `ce-` header, the
//! content type is the `datacontenttype` and the body is the data, byte for byte. Header values are texts:
//! whatever type an attribute had, it comes back as a String, unless the specification gives its name a type.
//!
//! Values are percent-encoded in UTF-8 (space, `"`, `%` and all that is not printable ASCII), and read back
//! by undoing a quoted-string and then one round of percent-encoding; what is not UTF-8 after that, or holds a `%`
//! without two hexadecimal digits, is an error. So is a `ce-` header given twice, one whose name is no
//! attribute's, and `ce-datacontenttype`, which the binding forbids. An empty body is no data: the binding cannot
//! tell the two apart.
//!
//! Headers come in as pairs of a name, in any case, and the value's bytes, so that any HTTP library will do;
//! headers that are none of ours are passed over. Which answer a client prefers is settled by [`negotiate`].

use std::borrow::Cow;

use crate::error::{Error, Kind, quote};
use crate::event::{self, Data, Event, FLOWPOSITION, FLOWTIME, Form, SPECVERSION, Stamp, check_required};
use crate::names::Names;
use crate::value::{self, Value};
use crate::{json, proto};

/// The media types of this product's interface.
pub mod media {
    /// One event in JSON.
    pub const JSON: &str = "application/cloudevents+json";
    /// A batch of events in JSON.
    pub const JSON_BATCH: &str = "application/cloudevents-batch+json";
    /// One event in protobuf.
    pub const PROTO: &str = "application/cloudevents+protobuf";
    /// A batch of events in protobuf.
    pub const PROTO_BATCH: &str = "application/cloudevents-batch+protobuf";
    /// Events in JSON, one on each line.
    pub const NDJSON: &str = "application/x-ndjson";
    /// Server-sent events.
    pub const EVENT_STREAM: &str = "text/event-stream";
    /// STREAM, see [`crate::frame`].
    pub const STREAM: &str = "application/vnd.weir.stream";
}

/// An event format that structured and batched messages may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// [`crate::json`]
    Json,
    /// [`crate::proto`]
    Protobuf,
}

impl Format {
    /// The content type of one event.
    #[must_use]
    pub fn structured(self) -> &'static str {
        match self {
            Format::Json => media::JSON,
            Format::Protobuf => media::PROTO,
        }
    }

    /// The content type of a batch.
    #[must_use]
    pub fn batched(self) -> &'static str {
        match self {
            Format::Json => media::JSON_BATCH,
            Format::Protobuf => media::PROTO_BATCH,
        }
    }
}

/// How a message carries its event or events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Attributes in headers, data in the body.
    Binary,
    /// The body is one event.
    Structured(Format),
    /// The body is a batch.
    Batched(Format),
}

impl Mode {
    /// The mode by the value of the `Content-Type` header. [`Kind::Unsupported`] if it names an event format
    /// other than JSON and protobuf, or JSON in another charset than UTF-8.
    pub fn of(content_type: Option<&[u8]>) -> Result<Mode, Error> {
        const PREFIX: &[u8] = b"application/cloudevents";
        let content_type = content_type.unwrap_or_default().trim_ascii();
        let Some((prefix, rest)) = content_type.split_at_checked(PREFIX.len()) else {
            return Ok(Mode::Binary);
        };
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Ok(Mode::Binary);
        }
        let (suffix, parameters) = match memchr::memchr(b';', rest) {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &[][..]),
        };
        let mode = match &*suffix.trim_ascii().to_ascii_lowercase() {
            b"+json" => Mode::Structured(Format::Json),
            b"+protobuf" => Mode::Structured(Format::Protobuf),
            b"-batch+json" => Mode::Batched(Format::Json),
            b"-batch+protobuf" => Mode::Batched(Format::Protobuf),
            _ => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "the content type {} is no event format known here; expected {}, {}, {}, {}, or ce- headers",
                        quote(&String::from_utf8_lossy(content_type)),
                        media::JSON,
                        media::JSON_BATCH,
                        media::PROTO,
                        media::PROTO_BATCH,
                    ),
                ));
            }
        };
        if matches!(mode, Mode::Structured(Format::Json) | Mode::Batched(Format::Json))
            && !is_utf8(parameters)
        {
            return Err(Error::new(Kind::Unsupported, "events in JSON are read in the charset utf-8 only"));
        }
        Ok(mode)
    }
}

/// Whether a message without a structured content type means to be an event: whether any header's name begins
/// with `ce-`.
pub fn has_context<'h>(names: impl IntoIterator<Item = &'h str>) -> bool {
    names.into_iter().any(|name| attribute_of(name).is_some())
}

/// Reads an event in binary mode. An error about a header names its attribute.
pub fn decode_binary<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: &'a [u8],
) -> Result<Event<'a>, Error> {
    let (mut id, mut source, mut specversion, mut ty) = (None, None, None, None);
    let (mut position, mut time, mut content_type) = (None, None, None);
    let mut attributes = Vec::with_capacity(8);
    let mut names = Names::default();
    for (header, value) in headers {
        if header.eq_ignore_ascii_case("content-type") {
            if content_type.replace(read_content_type(value)?).is_some() {
                return Err(Error::malformed("the header content-type is given twice"));
            }
            continue;
        }
        let Some(name) = attribute_of(header) else { continue };
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        value::check_name(name.as_bytes()).map_err(|what| Error::about(&name, what))?;
        if name == "datacontenttype" {
            let message = "must not have a ce- header; the header content-type carries it";
            return Err(Error::about(&name, message));
        }
        if !names.insert(name.clone()) {
            return Err(event::duplicate(&name));
        }
        let value = read_text(&name, value)?;
        let required = |value: Cow<'a, str>| check_required(&name, &value).map(|()| value);
        match &*name {
            "id" => id = Some(required(value)?),
            "source" => source = Some(required(value)?),
            "type" => ty = Some(required(value)?),
            "specversion" => specversion = Some(value),
            FLOWPOSITION => position = Some(value),
            FLOWTIME => time = Some(value),
            _ => {
                let value = event::check_value(&name, Value::String(value))?;
                attributes.push((name, value));
            }
        }
    }
    event::check_specversion(&specversion.ok_or_else(|| event::missing("specversion"))?)?;
    let missing = |name: &'static str| move || event::missing(name);
    let id = id.ok_or_else(missing("id"))?;
    let source = source.ok_or_else(missing("source"))?;
    let mut event = Event::of_checked(id, source, ty.ok_or_else(missing("type"))?);
    if !body.is_empty() {
        event.set_data(Some(Data { bytes: Cow::Borrowed(body), form: form_of(content_type, body) }));
    }
    if let Some(content_type) = content_type {
        attributes.push((Cow::Borrowed("datacontenttype"), Value::from(content_type)));
    }
    event.set_checked(attributes);
    event.set_stamp(position.as_deref(), time.as_deref());
    Ok(event)
}

/// Hands on the headers, names in lower case, that carry an event in binary mode. The body is the data's
/// bytes, empty without data.
pub fn encode_binary(event: &Event<'_>, stamp: Option<Stamp>, mut header: impl FnMut(&str, &str)) {
    if let Some(content_type) = event.datacontenttype() {
        header("content-type", content_type);
    }
    header("ce-specversion", SPECVERSION);
    header("ce-id", &encode_text(event.id()));
    header("ce-source", &encode_text(event.source()));
    header("ce-type", &encode_text(event.ty()));
    for (name, value) in event.attributes().filter(|(name, _)| *name != "datacontenttype") {
        header(&format!("ce-{name}"), &encode_text(&value.text()));
    }
    if let Some(stamp) = stamp {
        header("ce-flowposition", &stamp.position.to_string());
        header("ce-flowtime", &stamp.time.to_string());
    }
}

/// Reads an event in structured mode.
pub fn decode_structured(format: Format, body: &[u8]) -> Result<Event<'_>, Error> {
    match format {
        Format::Json => json::decode(body),
        Format::Protobuf => proto::decode(body),
    }
}

/// Appends the body of an event in structured mode.
pub fn encode_structured(format: Format, event: &Event<'_>, out: &mut Vec<u8>) {
    match format {
        Format::Json => json::encode_document(event, None, out),
        Format::Protobuf => proto::encode(event, out),
    }
}

/// Reads a batch of at most `events_max` events; [`Kind::TooMany`] if there are more.
pub fn decode_batch(format: Format, body: &[u8], events_max: usize) -> Result<Vec<Event<'_>>, Error> {
    match format {
        Format::Json => json::decode_batch(body, events_max),
        Format::Protobuf => proto::decode_batch(body, events_max),
    }
}

/// Appends the body of a batch.
pub fn encode_batch<'e>(format: Format, events: impl IntoIterator<Item = &'e Event<'e>>, out: &mut Vec<u8>) {
    match format {
        Format::Json => {
            json::batch_start(out);
            events.into_iter().for_each(|event| json::batch_push(event, None, out));
            json::batch_end(out);
        }
        Format::Protobuf => events.into_iter().for_each(|event| proto::push(event, out)),
    }
}

/// Which of `offers`, given in our order of preference, the client likes best by its `Accept` header (several
/// of them joined by commas): highest `q`, then named most exactly, then first offered (RFC 9110 section
/// 12.5.1). No header is like `*/*`. `None` if it accepts none. Parameters but for `q` are not looked at, and
/// what cannot be read is passed over.
#[must_use]
pub fn negotiate<'o>(accept: Option<&str>, offers: &[&'o str]) -> Option<&'o str> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
        return offers.first().copied();
    };
    let mut best: Option<((u16, u8), &'o str)> = None;
    for offer in offers {
        // The most exact range that an offer falls in decides, be its q lower than a vaguer one's.
        let weight = ranges(accept)
            .filter_map(|(range, q)| exactness(range, offer).map(|exactness| (exactness, q)))
            .max_by_key(|(exactness, _)| *exactness)
            .map(|(exactness, q)| (q, exactness));
        if let Some(weight) = weight.filter(|(q, _)| *q > 0)
            && best.is_none_or(|(best, _)| weight > best)
        {
            best = Some((weight, *offer));
        }
    }
    best.map(|(_, offer)| offer)
}

/// The media ranges of an `Accept` header, each with its q in thousandths.
fn ranges(accept: &str) -> impl Iterator<Item = (&str, u16)> {
    accept.split(',').filter_map(|part| {
        let mut parts = part.split(';').map(str::trim);
        let range = parts.next().filter(|range| !range.is_empty())?;
        let mut q = 1000;
        for parameter in parts {
            if let Some((name, value)) = parameter.split_once('=')
                && name.trim().eq_ignore_ascii_case("q")
            {
                q = thousandths(value.trim())?;
            }
        }
        Some((range, q))
    })
}

/// A q of RFC 9110: `0` or `1` with at most three digits after a point, at most 1.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !matches!(whole, "0" | "1") || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{whole}{fraction:0<3}").parse().ok()?;
    (thousandths <= 1000).then_some(thousandths)
}

/// How exactly a media range names a media type; `None` if it does not.
fn exactness(range: &str, offer: &str) -> Option<u8> {
    if range == "*/*" {
        return Some(0);
    }
    let (range_type, range_subtype) = range.split_once('/')?;
    let (offer_type, offer_subtype) = offer.split_once('/')?;
    if !range_type.eq_ignore_ascii_case(offer_type) {
        None
    } else if range_subtype == "*" {
        Some(1)
    } else {
        range_subtype.eq_ignore_ascii_case(offer_subtype).then_some(2)
    }
}

/// The attribute a header carries by its name: what follows `ce-` in any case.
fn attribute_of(header: &str) -> Option<&str> {
    let (prefix, name) = header.split_at_checked(3)?;
    prefix.eq_ignore_ascii_case("ce-").then_some(name)
}

fn read_content_type(value: &[u8]) -> Result<&str, Error> {
    let text = std::str::from_utf8(value.trim_ascii()).unwrap_or_default();
    value::check_media_type(text).map_err(|what| Error::about("datacontenttype", what))?;
    Ok(text)
}

/// A header's value as text: a quoted-string undone, then one round of percent-encoding.
fn read_text<'a>(name: &str, value: &'a [u8]) -> Result<Cow<'a, str>, Error> {
    let value = value.trim_ascii();
    let unquoted = match value {
        [b'"', inner @ .., b'"'] => unquote(inner),
        [b'"', ..] => None,
        plain => Some(Cow::Borrowed(plain)),
    };
    let unquoted =
        unquoted.ok_or_else(|| Error::about(name, "begins with a quote but is no whole quoted-string"))?;
    let decoded = if memchr::memchr(b'%', &unquoted).is_some() {
        let decoded = percent_decode(&unquoted);
        Cow::Owned(decoded.ok_or_else(|| {
            Error::about(name, "holds a % without two hexadecimal digits; a % itself is %25")
        })?)
    } else {
        unquoted
    };
    let text = match decoded {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    };
    text.ok_or_else(|| Error::about(name, "is not valid UTF-8 once its percent-encoding is undone"))
}

/// The inside of a quoted-string (RFC 9110 section 5.6.4). `None` if a quote stands in it unescaped.
fn unquote(inner: &[u8]) -> Option<Cow<'_, [u8]>> {
    if memchr::memchr2(b'\\', b'"', inner).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => out.push(*bytes.next()?),
            byte => out.push(*byte),
        }
    }
    Some(Cow::Owned(out))
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let nibble = |b: Option<&u8>| char::from(*b?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        out.push(if *byte == b'%' { nibble(bytes.next())? << 4 | nibble(bytes.next())? } else { *byte });
    }
    Some(out)
}

/// A text as a header's value: percent-encoded where it must be.
fn encode_text(text: &str) -> Cow<'_, str> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let stands = |b: u8| matches!(b, 0x21..=0x7e) && b != b'"' && b != b'%';
    if text.bytes().all(stands) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if stands(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    Cow::Owned(out)
}

/// How other envelopes had best carry a body: as text if its type says text in UTF-8 and it is.
fn form_of(content_type: Option<&str>, body: &[u8]) -> Form<'static> {
    let textual = value::is_json(content_type)
        || content_type.is_some_and(|content_type| {
            let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
            let essence = essence.trim().to_ascii_lowercase();
            let named = essence.starts_with("text/")
                || essence.ends_with("+xml")
                || matches!(&*essence, "application/xml" | "application/javascript" | "application/yaml");
            named && is_utf8(parameters.as_bytes())
        });
    if textual && std::str::from_utf8(body).is_ok() { Form::Text } else { Form::Binary }
}

/// Whether the parameters of a media type name no charset but UTF-8 or its subset ASCII.
fn is_utf8(parameters: &[u8]) -> bool {
    parameters.split(|b| *b == b';').all(|parameter| {
        let parameter = parameter.trim_ascii().to_ascii_lowercase();
        let charset = parameter.strip_prefix(b"charset=").map(|charset| charset.trim_ascii());
        matches!(charset, None | Some(b"utf-8" | b"\"utf-8\"" | b"utf8" | b"us-ascii" | b"\"us-ascii\""))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::{Position, Time};

    const REQUIRED: [(&str, &str); 4] =
        [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/a"), ("ce-type", "t")];

    fn decode<'a>(headers: &[(&'a str, &'a str)], body: &'a [u8]) -> Result<Event<'a>, Error> {
        decode_binary(headers.iter().map(|(name, value)| (*name, value.as_bytes())), body)
    }

    fn with<'a>(name: &'a str, value: &'a str) -> Result<Event<'a>, Error> {
        decode(&[&REQUIRED[..], &[(name, value)]].concat(), b"")
    }

    #[test]
    fn modes_are_told_by_the_content_type() {
        for (content_type, mode) in [
            (None, Mode::Binary),
            (Some(""), Mode::Binary),
            (Some("application/json"), Mode::Binary),
            (Some("application/cloudevent"), Mode::Binary),
            (Some("application/cloudevents+json"), Mode::Structured(Format::Json)),
            (Some("Application/CloudEvents+JSON; charset=UTF-8"), Mode::Structured(Format::Json)),
            (Some("application/cloudevents-batch+json;charset=\"utf-8\""), Mode::Batched(Format::Json)),
            (Some("application/cloudevents+protobuf"), Mode::Structured(Format::Protobuf)),
            (Some("application/cloudevents-batch+protobuf"), Mode::Batched(Format::Protobuf)),
        ] {
            assert_eq!(Mode::of(content_type.map(str::as_bytes)), Ok(mode), "{content_type:?}");
            if let Mode::Structured(format) = mode {
                assert_eq!(Mode::of(Some(format.structured().as_bytes())), Ok(mode));
                assert_eq!(Mode::of(Some(format.batched().as_bytes())), Ok(Mode::Batched(format)));
            }
        }
        for content_type in [
            "application/cloudevents",
            "application/cloudevents+xml",
            "application/cloudevents+avro",
            "application/cloudevents-batch",
            "application/cloudeventsx",
            "application/cloudevents+json; charset=iso-8859-1",
        ] {
            assert_eq!(Mode::of(Some(content_type.as_bytes())).unwrap_err().kind(), Kind::Unsupported);
        }
    }

    #[test]
    fn attributes_come_from_headers_and_data_from_the_body() {
        let headers = [
            ("Host", "example.com"),
            ("CE-SpecVersion", "1.0"),
            ("ce-ID", "a%20b%25"),
            ("ce-source", "/a%2520b"),
            ("ce-type", "t"),
            ("ce-time", "2018-04-05T17:31:00Z"),
            ("ce-n", "7"),
            ("ce-quoted", r#""Euro\" %E2%82%AC""#),
            ("ce-partitionkey", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("Content-Type", "text/plain"),
        ];
        let event = decode(&headers, "é".as_bytes()).unwrap();
        assert_eq!((event.id(), event.source()), ("a b%", "/a%20b"), "decoded once");
        assert_eq!(event.get("n"), Some(Value::from("7")));
        assert_eq!(event.get("quoted"), Some(Value::from("Euro\" €")));
        assert_eq!(event.partitionkey(), Some("Euro € 😀"));
        assert_eq!(event.time().unwrap().seconds(), 1_522_949_460);
        assert_eq!(event.datacontenttype(), Some("text/plain"));
        assert_eq!(event.data(), Some(&Data::text("é")));
        assert!(has_context(["host", "Ce-Id"]) && !has_context(["host", "cent", "c"]));
        assert_eq!(decode(&REQUIRED, b"").unwrap().data(), None);
    }

    #[test]
    fn bad_headers_are_named() {
        for (header, value, name) in [
            ("ce-datacontenttype", "text/plain", "datacontenttype"),
            ("ce-id", "2", "id"),
            ("ce-data", "2", "data"),
            ("ce-a_b", "2", "a_b"),
            ("ce-", "2", ""),
            ("ce-x", "%", "x"),
            ("ce-x", "%4", "x"),
            ("ce-x", "%zz", "x"),
            ("ce-x", "%FF", "x"),
            ("ce-x", "%07", "x"),
            ("ce-x", "\"open", "x"),
            ("ce-x", "\"a\"b\"", "x"),
            ("ce-x", "\"a\\\"", "x"),
            ("ce-time", "now", "time"),
            ("ce-subject", "", "subject"),
            ("content-type", "json", "datacontenttype"),
        ] {
            let error = with(header, value).unwrap_err();
            assert_eq!(
                (error.kind(), error.attribute()),
                (Kind::Attribute, Some(name)),
                "{header}: {value}: {error}"
            );
        }
        for at in 0..4 {
            let mut headers = REQUIRED.to_vec();
            let (name, _) = headers.remove(at);
            assert_eq!(decode(&headers, b"").unwrap_err().attribute(), name.strip_prefix("ce-"));
            headers.push((name, ""));
            assert!(decode(&headers, b"").is_err());
        }
        let twice = [&REQUIRED[..], &[("content-type", "a/b"), ("Content-Type", "a/b")]].concat();
        assert_eq!(decode(&twice, b"").unwrap_err().kind(), Kind::Malformed);
        let latin = decode_binary(
            REQUIRED.iter().map(|(n, v)| (*n, v.as_bytes())).chain([("ce-x", &b"\xe9"[..])]),
            b"",
        );
        assert_eq!(latin.unwrap_err().attribute(), Some("x"));
    }

    #[test]
    fn a_stamp_travels_in_headers_and_is_no_attribute() {
        let event = decode(&REQUIRED, b"").unwrap();
        let stamp = Stamp { position: Position(41), time: Time(1_500_000_000_000) };
        let mut headers = Vec::new();
        encode_binary(&event, Some(stamp), |name, value| headers.push((name.to_owned(), value.to_owned())));
        assert!(headers.contains(&("ce-flowtime".into(), "2017-07-14T02:40:00.000Z".into())));
        let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let read = decode(&headers, b"").unwrap();
        assert_eq!((read.stamp(), read.attributes().count()), (Some(stamp), 0));
    }

    #[test]
    fn bodies_keep_their_bytes_and_say_how_they_are_best_carried() {
        for (content_type, body, form) in [
            (None, &b"{}"[..], Form::Text),
            (Some("application/json"), b"\xff", Form::Binary),
            (Some("application/json"), b"not json", Form::Text),
            (Some("text/plain;charset=utf-8"), b"a", Form::Text),
            (Some("text/plain; charset=iso-8859-1"), b"a", Form::Binary),
            (Some("image/svg+xml"), b"<svg/>", Form::Text),
            (Some("image/png"), b"a", Form::Binary),
        ] {
            let content_type = content_type.map(|value| ("content-type", value));
            let headers: Vec<_> = REQUIRED.into_iter().chain(content_type).collect();
            let event = decode(&headers, body).unwrap();
            assert_eq!(event.data(), Some(&Data { bytes: Cow::Borrowed(body), form }));
        }
    }

    #[test]
    fn the_answer_a_client_likes_best_is_found() {
        const OFFERS: [&str; 4] = [media::JSON_BATCH, media::NDJSON, media::EVENT_STREAM, media::STREAM];
        for (accept, expected) in [
            (None, Some(media::JSON_BATCH)),
            (Some(""), Some(media::JSON_BATCH)),
            (Some("*/*"), Some(media::JSON_BATCH)),
            (Some("text/event-stream"), Some(media::EVENT_STREAM)),
            (Some("TEXT/*"), Some(media::EVENT_STREAM)),
            (Some("application/x-ndjson, */*"), Some(media::NDJSON)),
            (Some("application/x-ndjson;q=0.5, text/event-stream; Q=0.501"), Some(media::EVENT_STREAM)),
            (Some("application/cloudevents-batch+json;q=0, */*;q=0.1"), Some(media::NDJSON)),
            (Some("*/*, application/*;q=0"), Some(media::EVENT_STREAM)),
            (Some("application/vnd.weir.stream;v=1, text/html"), Some(media::STREAM)),
            (Some("text/html"), None),
            (Some("text/event-stream;q=0"), None),
            (Some("text/event-stream;q=2"), None),
            (Some("text/event-stream;q=0.0001"), None),
            (Some("nonsense, ;, text/event-stream"), Some(media::EVENT_STREAM)),
        ] {
            assert_eq!(negotiate(accept, &OFFERS), expected, "{accept:?}");
        }
    }

    proptest! {
        #[test]
        fn header_values_are_printable_and_come_back(text in "\\PC*") {
            let encoded = encode_text(&text);
            prop_assert!(encoded.bytes().all(|b| (0x21..0x7f).contains(&b)));
            prop_assert_eq!(read_text("x", encoded.as_bytes()).unwrap(), &*text);
        }

        #[test]
        fn arbitrary_headers_do_not_panic(headers in prop::collection::vec(("(ce-)?[a-zA-Z_]{0,9}|content-type", prop::collection::vec(any::<u8>(), 0..20)), 0..8), body: Vec<u8>) {
            let _ = decode_binary(headers.iter().map(|(name, value)| (&**name, &**value)), &body);
            for (_, value) in &headers {
                let _ = Mode::of(Some(value));
                let _ = negotiate(std::str::from_utf8(value).ok(), &[media::JSON]);
            }
        }
    }
}
