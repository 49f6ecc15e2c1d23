//! What is wrong with an event, in words its producer can act on.

use std::fmt;

/// What kind of wrong, by what the sender has to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The bytes are not what the format says: broken JSON or protobuf, invalid UTF-8, bad percent-coding.
    Malformed,
    /// The format is whole but the event is not a CloudEvent: an attribute is missing, named or typed wrongly.
    Attribute,
    /// One thing exceeds the limit of bytes given for it.
    TooLarge,
    /// A batch holds more events than the limit given.
    TooMany,
    /// A well-formed request for something this implementation does not speak: another `specversion`, another
    /// event format.
    Unsupported,
}

/// An error of decoding, encoding or building an event. Lower case, no full stop; names the attribute, what is
/// wrong with it and what is expected. Safe to show to whoever sent the event: it quotes at most a few dozen
/// characters of what they sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: Kind,
    message: String,
    attribute: Option<String>,
    index: Option<usize>,
    offset: Option<usize>,
}

impl Error {
    /// An error of a kind. The message does not name the place; [`Error::at_index`] and [`Error::at_offset`] do.
    #[cold]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), attribute: None, index: None, offset: None }))
    }

    /// An error about one attribute; `message` reads on after the attribute's name.
    #[cold]
    pub(crate) fn about(name: &str, message: impl fmt::Display) -> Self {
        let mut error = Self::new(Kind::Attribute, format!("attribute {} {message}", quote(name)));
        error.0.attribute = Some(name.into());
        error
    }

    /// The bytes are not what the format says.
    #[cold]
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, message)
    }

    /// Says which event of a batch, counted from 0. The innermost index given stays.
    #[must_use]
    #[cold]
    pub fn at_index(mut self, index: usize) -> Self {
        self.0.index.get_or_insert(index);
        self
    }

    /// Says at which byte of the input, counted from 0.
    #[must_use]
    #[cold]
    pub fn at_offset(mut self, offset: usize) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// What the sender has to change.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The attribute that is wrong, if it is one.
    #[must_use]
    pub fn attribute(&self) -> Option<&str> {
        self.0.attribute.as_deref()
    }

    /// Which event of the batch is wrong, counted from 0.
    #[must_use]
    pub fn index(&self) -> Option<usize> {
        self.0.index
    }

    /// The byte of the input at which it is wrong, counted from 0, where the format's own syntax is broken.
    #[must_use]
    pub fn offset(&self) -> Option<usize> {
        self.0.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.0.index {
            write!(f, "event {index} of the batch: ")?;
        }
        f.write_str(&self.0.message)?;
        match self.0.offset {
            Some(offset) => write!(f, " (at byte {offset})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}

/// A text from outside as part of a message: quoted, escaped, cut after 40 characters.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for (at, char) in text.chars().enumerate() {
        if at == 40 {
            quoted.push('…');
            break;
        }
        quoted.extend(char.escape_debug());
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_event_attribute_and_place() {
        let error = Error::about("time", "is \"now\"").at_index(3).at_index(9).at_offset(17);
        assert_eq!(error.to_string(), "event 3 of the batch: attribute \"time\" is \"now\" (at byte 17)");
        assert_eq!(
            (error.kind(), error.attribute(), error.index()),
            (Kind::Attribute, Some("time"), Some(3))
        );
        assert_eq!(quote(&"\u{7}".repeat(50)).matches("u{7}").count(), 40);
    }
}
