//! The values of attributes: CloudEvents' type system, and the rules for names and texts that every format
//! shares.
//!
//! A value keeps the type its format gave it. The protobuf format has all seven types; JSON has Boolean,
//! Integer and String, so that there a Binary or a URI leaves as the String that is its canonical text; the
//! HTTP binding has only texts. What the specification types itself (`source`, `subject`, `time`,
//! `datacontenttype`, `dataschema`) has that type whatever it came in.

use std::borrow::Cow;
use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};

use crate::timestamp::Timestamp;

/// The value of an attribute. CloudEvents 1.0.2, section "Type System".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number of 32 bits, signed.
    Integer(i32),
    /// Unicode text without control characters and noncharacters.
    String(Cow<'a, str>),
    /// Bytes; as text base64 (RFC 4648 section 4, padded).
    Binary(Cow<'a, [u8]>),
    /// An absolute URI (RFC 3986 section 4.3; a fragment is let pass).
    Uri(Cow<'a, str>),
    /// A URI-reference (RFC 3986 section 4.1).
    UriRef(Cow<'a, str>),
    /// An instant and its RFC 3339 text.
    Timestamp(Timestamp<'a>),
}

impl<'a> Value<'a> {
    /// A String value. Whether the text is allowed is checked when the value is set.
    pub fn string(text: impl Into<Cow<'a, str>>) -> Self {
        Self::String(text.into())
    }

    /// The canonical text of the value, which the text formats carry.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Value::Boolean(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Value::Integer(value) => Cow::Owned(value.to_string()),
            Value::String(text) | Value::Uri(text) | Value::UriRef(text) => Cow::Borrowed(text),
            Value::Binary(bytes) => Cow::Owned(BASE64_STANDARD.encode(bytes)),
            Value::Timestamp(time) => time.text(),
        }
    }

    /// How many bytes [`Value::text`] has, without making it.
    #[must_use]
    pub fn text_len(&self) -> usize {
        match self {
            Value::Boolean(value) => 5 - usize::from(*value),
            Value::Integer(value) => integer_len(*value),
            Value::String(text) | Value::Uri(text) | Value::UriRef(text) => text.len(),
            Value::Binary(bytes) => base64_len(bytes.len()),
            Value::Timestamp(time) => time.text_len(),
        }
    }

    /// The text of a value that holds one as it is: String, URI and URI-reference.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) | Value::Uri(text) | Value::UriRef(text) => Some(text),
            _ => None,
        }
    }

    /// The name CloudEvents gives this type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Boolean(_) => "Boolean",
            Value::Integer(_) => "Integer",
            Value::String(_) => "String",
            Value::Binary(_) => "Binary",
            Value::Uri(_) => "URI",
            Value::UriRef(_) => "URI-reference",
            Value::Timestamp(_) => "Timestamp",
        }
    }

    /// The same value, borrowing.
    #[must_use]
    pub fn reborrow(&self) -> Value<'_> {
        match self {
            Value::Boolean(value) => Value::Boolean(*value),
            Value::Integer(value) => Value::Integer(*value),
            Value::String(text) => Value::String(Cow::Borrowed(text)),
            Value::Binary(bytes) => Value::Binary(Cow::Borrowed(bytes)),
            Value::Uri(text) => Value::Uri(Cow::Borrowed(text)),
            Value::UriRef(text) => Value::UriRef(Cow::Borrowed(text)),
            Value::Timestamp(time) => Value::Timestamp(time.reborrow()),
        }
    }

    /// The same value, owning.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Boolean(value) => Value::Boolean(value),
            Value::Integer(value) => Value::Integer(value),
            Value::String(text) => Value::String(Cow::Owned(text.into_owned())),
            Value::Binary(bytes) => Value::Binary(Cow::Owned(bytes.into_owned())),
            Value::Uri(text) => Value::Uri(Cow::Owned(text.into_owned())),
            Value::UriRef(text) => Value::UriRef(Cow::Owned(text.into_owned())),
            Value::Timestamp(time) => Value::Timestamp(time.into_owned()),
        }
    }

    /// Whether the value may stand in an event; else what is wrong, reading on after "attribute NAME".
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self {
            Value::String(text) => check_string(text),
            Value::Uri(text) => check_uri(text),
            Value::UriRef(text) => check_uri_reference(text),
            Value::Boolean(_) | Value::Integer(_) | Value::Binary(_) | Value::Timestamp(_) => Ok(()),
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Value::Boolean(value)
    }
}

impl From<i32> for Value<'_> {
    fn from(value: i32) -> Self {
        Value::Integer(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::String(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::String(Cow::Owned(text))
    }
}

impl<'a> From<Timestamp<'a>> for Value<'a> {
    fn from(time: Timestamp<'a>) -> Self {
        Value::Timestamp(time)
    }
}

/// Bytes of a number in decimal.
pub(crate) fn integer_len(value: i32) -> usize {
    let digits = value.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 1;
    digits + usize::from(value < 0)
}

/// Bytes of so many bytes in padded base64.
pub(crate) fn base64_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// Whether `name` may name an attribute: CloudEvents 1.0.2, section "Naming Conventions" (lower-case letters
/// and digits of ASCII; `data` is taken). Else what is wrong, reading on after "attribute NAME".
pub(crate) fn check_name(name: &[u8]) -> Result<(), &'static str> {
    let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if name.is_empty() {
        Err("is an empty name; expected lower-case letters a-z and digits")
    } else if !name.iter().all(allowed) {
        Err("is not a valid name; expected only lower-case letters a-z and digits 0-9")
    } else if name == b"data" {
        Err("is not allowed: the name data belongs to the payload")
    } else {
        Ok(())
    }
}

const EMPTY: &str = "is empty; expected a non-empty text, or no such attribute";

/// Whether every byte is printable ASCII: the common case of every rule below, decided without branches.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, b| plain & (b.wrapping_sub(0x20) < 0x5f))
}

/// The String type: no control characters (U+0000-U+001F, U+007F-U+009F) and no noncharacters. Surrogates
/// cannot occur in a `str`.
pub(crate) fn check_string(text: &str) -> Result<(), &'static str> {
    let forbidden =
        |c: char| c.is_control() || matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe;
    if is_plain(text.as_bytes()) || !text.chars().any(forbidden) {
        Ok(())
    } else {
        Err("holds a control character or noncharacter; expected printable Unicode text")
    }
}

/// [`check_string`], and not empty.
pub(crate) fn check_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() { Err(EMPTY) } else { check_string(text) }
}

/// What a byte may be in a URI: RFC 3986 unreserved, reserved and `%`.
const URI_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let bytes = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?#[]@!$&'()*+,;=%";
    let mut at = 0;
    while at < bytes.len() {
        allowed[bytes[at] as usize] = true;
        at += 1;
    }
    allowed
};

/// A non-empty URI-reference by RFC 3986 section 4.1: allowed characters, whole percent-encodings, one
/// fragment at most, and no colon in the first segment of a path that has no scheme before it.
pub(crate) fn check_uri_reference(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err("is empty; expected a URI-reference");
    }
    if !bytes.iter().fold(true, |all, b| all & URI_BYTES[usize::from(*b)]) {
        return Err("is not a URI-reference: it holds a character that must be percent-encoded");
    }
    let whole = |at: usize| {
        bytes.get(at + 1).is_some_and(u8::is_ascii_hexdigit)
            && bytes.get(at + 2).is_some_and(u8::is_ascii_hexdigit)
    };
    if memchr::memchr_iter(b'%', bytes).any(|at| !whole(at)) {
        return Err("is not a URI-reference: a % is not followed by two hexadecimal digits");
    }
    if memchr::memchr_iter(b'#', bytes).nth(1).is_some() {
        return Err("is not a URI-reference: it holds more than one #");
    }
    match bytes.iter().position(|b| matches!(b, b':' | b'/' | b'?' | b'#')) {
        Some(at) if bytes[at] == b':' && !is_scheme(&bytes[..at]) => {
            Err("is not a URI-reference: what stands before its first colon is not a scheme")
        }
        _ => Ok(()),
    }
}

/// An absolute URI: a URI-reference that begins with a scheme.
pub(crate) fn check_uri(text: &str) -> Result<(), &'static str> {
    check_uri_reference(text)?;
    match text.bytes().position(|b| matches!(b, b':' | b'/' | b'?' | b'#')) {
        Some(at) if text.as_bytes()[at] == b':' => Ok(()),
        _ => Err("is not an absolute URI; expected one with a scheme, as https://example.com/schema"),
    }
}

fn is_scheme(text: &[u8]) -> bool {
    let rest = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    text.split_first().is_some_and(|(first, tail)| first.is_ascii_alphabetic() && tail.iter().all(rest))
}

/// A media type by RFC 2046: `type/subtype` and whatever parameters follow a semicolon.
pub(crate) fn check_media_type(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || !is_plain(text.as_bytes()) {
        return Err("is not a media type; expected printable ASCII, as application/json");
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        // A header could not carry it: its value has no space around it.
        return Err("is not a media type; expected no space before or after it");
    }
    let token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or_default().trim_matches([' ', '\t']);
    match essence.split_once('/') {
        Some((kind, subtype)) if token(kind) && token(subtype) => Ok(()),
        _ => Err("is not a media type; expected type/subtype, as application/json"),
    }
}

/// Whether data of this media type is JSON: the subtype is `json` or ends in `+json` (JSON Event Format 1.0.2,
/// section 3.1); absent means `application/json`.
pub(crate) fn is_json(media_type: Option<&str>) -> bool {
    let Some(media_type) = media_type else { return true };
    if media_type == "application/json" {
        return true;
    }
    let essence = media_type.split(';').next().unwrap_or_default().trim_matches([' ', '\t']);
    let Some((_, subtype)) = essence.split_once('/') else { return false };
    let subtype = subtype.as_bytes();
    subtype.eq_ignore_ascii_case(b"json")
        || (subtype.len() > 5 && subtype[subtype.len() - 5..].eq_ignore_ascii_case(b"+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_lengths_said() {
        for value in [
            Value::Boolean(true),
            Value::Boolean(false),
            Value::Integer(0),
            Value::Integer(-1),
            Value::Integer(10),
            Value::Integer(i32::MIN),
            Value::Integer(i32::MAX),
            Value::from("é"),
            Value::Binary(Cow::Borrowed(b"")),
            Value::Binary(Cow::Borrowed(b"abcd")),
            Value::Timestamp(Timestamp::from_unix(0, 5).unwrap()),
        ] {
            assert_eq!(value.text_len(), value.text().len(), "{value:?}");
        }
    }

    #[test]
    fn names_are_lower_case_letters_and_digits() {
        for good in [&b"a"[..], b"0", b"comexampleextension1", b"datacontenttype", b"database"] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in [&b""[..], b"A", b"a_b", b"a-b", b"a.b", b"a b", "é".as_bytes(), b"data", b"data_base64"]
        {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn strings_hold_no_control_characters() {
        for good in ["", "a b~", "é", "😀", "\u{fffd}", "\u{a0}"] {
            assert_eq!(check_string(good), Ok(()), "{good:?}");
        }
        for bad in
            ["\0", "a\n", "\u{1f}", "\u{7f}", "\u{9f}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}", "\u{10ffff}"]
        {
            assert!(check_string(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn uris_follow_rfc_3986() {
        for good in [
            "/a",
            "urn:x:y",
            "mailto:a@b.c",
            "../x?y#z",
            "https://[::1]/%20",
            "1-555-123-4567",
            "?q:1",
            "#",
            "a/b:c",
        ] {
            assert_eq!(check_uri_reference(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "é", "<x>", "%", "%2", "%zz", "a#b#c", "1:2", ":x", "a\\b", "\"", "x{y}"] {
            assert!(check_uri_reference(bad).is_err(), "{bad}");
        }
        assert!(check_uri("https://example.com/s").is_ok());
        assert!(check_uri("urn:x").is_ok());
        for bad in ["/relative", "s", "?a:b"] {
            assert!(check_uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn media_types_are_told_apart() {
        for good in ["text/plain", "application/json; charset=utf-8", "application/vnd.a+json", "x/y ; a=b"] {
            assert_eq!(check_media_type(good), Ok(()), "{good}");
        }
        for bad in ["", "text", "text/plain; a=\"é\"", "text/", "/plain", "a/b/c", "text plain", ";", "a/b c"]
        {
            assert!(check_media_type(bad).is_err(), "{bad}");
        }
        for json in [
            "application/json",
            "text/json",
            "Application/JSON",
            "a/b+JSON;x",
            "application/json ;charset=utf-8",
        ] {
            assert!(is_json(Some(json)), "{json}");
        }
        assert!(is_json(None));
        for other in ["text/plain", "application/jsonx", "application/+jsonp", "application/json+xml", "json"]
        {
            assert!(!is_json(Some(other)), "{other}");
        }
    }
}
