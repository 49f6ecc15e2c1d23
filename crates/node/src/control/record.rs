//! Streams and tokens as decided: the records that the state holds and hands out, and their JSON form in
//! decisions and snapshots.
//!
//! What was once written must read back for ever, so reading a record may become more lenient and never stricter.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

use weir_event::flow::{History, Malformed, Position, StreamName, Time};
use weir_log::{Settings, StreamId};

use super::access::Role;
use super::descriptor::Descriptor;
use super::members::{Members, bad};
use crate::error::Error;

/// A stream as decided; immutable, replaced as a whole when its descriptor changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// What the log knows it by.
    pub id: StreamId,
    /// What everyone else knows it by.
    pub name: StreamName,
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// The history it began with; the log knows the current one.
    pub history: History,
    /// When it was created.
    pub created: Time,
    /// The decision that last changed it: its version, and the ETag.
    pub revision: Position,
}

impl Stream {
    /// What the log has to know of it.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            durability: self.descriptor.durability,
            dedupe: self.descriptor.dedupe,
            retention: self.descriptor.retention,
            control: self.name.is_reserved(),
        }
    }

    /// The record in decisions and snapshots.
    #[must_use]
    pub fn to_record(&self) -> Value {
        json!({
            "id": self.id.0,
            "name": self.name.as_str(),
            "history": self.history,
            "created": self.created,
            "revision": self.revision,
            "descriptor": self.descriptor.to_stored(),
        })
    }

    /// Reads [`Stream::to_record`].
    pub fn from_record(value: &Value) -> Result<Self, Error> {
        let known = ["id", "name", "history", "created", "revision", "descriptor"];
        let members = Members::of(value, "stream", &known)?;
        Ok(Self {
            id: StreamId(number(&members, "id")?),
            name: needed(&members, "name")?,
            history: needed(&members, "history")?,
            created: needed(&members, "created")?,
            revision: Position(number(&members, "revision")?),
            descriptor: Descriptor::from_stored(members.get("descriptor").unwrap_or(&Value::Null))?,
        })
    }
}

/// An API token as decided. Its secret lies elsewhere, hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its number.
    pub id: TokenId,
    /// What it lets its holder do.
    pub role: Role,
    /// For which streams.
    pub streams: Pattern,
    /// Which organization holds it; `None`: the owner's own.
    pub organization: Option<Box<str>>,
    /// When it was created.
    pub created: Time,
    /// When it ends.
    pub expires: Option<Time>,
}

impl Token {
    /// The record in decisions and snapshots.
    #[must_use]
    pub fn to_record(&self) -> Value {
        json!({
            "id": self.id.to_string(),
            "role": self.role.name(),
            "streams": self.streams.as_str(),
            "organization": self.organization,
            "created": self.created,
            "expires": self.expires,
        })
    }

    /// Reads [`Token::to_record`].
    pub fn from_record(value: &Value) -> Result<Self, Error> {
        let known = ["id", "role", "streams", "organization", "created", "expires"];
        let members = Members::of(value, "token", &known)?;
        let role = members.get("role").and_then(Value::as_str).and_then(Role::named);
        Ok(Self {
            id: needed(&members, "id")?,
            role: role.ok_or_else(|| bad("token.role", "is none of the roles"))?,
            streams: needed(&members, "streams")?,
            organization: members.text("organization", 253)?,
            created: needed(&members, "created")?,
            expires: parsed(&members, "expires")?,
        })
    }
}

/// A member that is read from its text form, and must be there.
pub(super) fn needed<T: FromStr<Err: fmt::Display>>(members: &Members<'_>, name: &str) -> Result<T, Error> {
    parsed(members, name)?.ok_or_else(|| bad(&members.at(name), "must be there"))
}

/// A member that is read from its text form.
pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
    members: &Members<'_>,
    name: &str,
) -> Result<Option<T>, Error> {
    members.parsed(name, |value| {
        value
            .as_str()
            .ok_or("must be a string")?
            .parse()
            .map_err(|error: T::Err| format!("is wrong: {error}"))
    })
}

/// A whole number; absent is 0.
pub(super) fn number(members: &Members<'_>, name: &str) -> Result<u64, Error> {
    let number =
        members.parsed(name, |value| value.as_u64().ok_or_else(|| "must be a whole number".to_owned()))?;
    Ok(number.unwrap_or_default())
}

/// A token's number: random; sixteen lower-case hex digits as text. Knowing it opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        text.parse::<History>().map(|same_text| Self(same_text.0))
    }
}

/// Which streams a token is for: a name in which `*` stands for one token and a final `>` for all the rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Every stream.
    #[must_use]
    pub fn all() -> Self {
        Self(">".into())
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the stream is one of them.
    #[must_use]
    pub fn covers(&self, name: &StreamName) -> bool {
        let mut name = name.as_str().split('.');
        let mut pattern = self.0.split('.');
        loop {
            match (pattern.next(), name.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(wanted), Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let body = match text.strip_suffix(".>") {
            Some(body) => body,
            None if text == ">" => return Ok(Self::all()),
            None => text,
        };
        let stars_replaced: Vec<&str> =
            body.split('.').map(|token| if token == "*" { "x" } else { token }).collect();
        match stars_replaced.join(".").parse::<StreamName>() {
            Ok(_) if text.len() <= StreamName::BYTES_MAX => Ok(Self(text.into())),
            _ => Err("must be a stream's name, in which * stands for one token and a final > for the rest"
                .to_owned()),
        }
    }
}
