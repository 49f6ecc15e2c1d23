//! Reading JSON members strictly: what is not known is an error that names the nearest known member, what has
//! the wrong shape is an error that names the member by its path (`retention.age`).

use serde_json::{Map, Value};

use crate::error::{Code, Error};

/// A JSON object whose members are all known.
#[derive(Clone, Debug)]
pub struct Members<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Members<'a> {
    /// The object at `path` (empty for the body itself), which may have the `known` members and no others.
    pub fn of(value: &'a Value, path: &str, known: &[&str]) -> Result<Self, Error> {
        let map = value.as_object().ok_or_else(|| bad(path, "must be an object"))?;
        let members = Self { map, path: path.to_owned() };
        for name in map.keys() {
            if !known.contains(&name.as_str()) {
                return Err(unknown(&members.at(name), name, known));
            }
        }
        Ok(members)
    }

    /// The path of a member, as errors name it.
    #[must_use]
    pub fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A member's value; `null` counts as absent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A text of 1 to `bytes_max` bytes without control characters but line breaks and tabs.
    pub fn text(&self, name: &str, bytes_max: usize) -> Result<Option<Box<str>>, Error> {
        self.get(name).map(|value| text(value, &self.at(name), bytes_max)).transpose()
    }

    /// A list of at most `count_max` different texts.
    pub fn texts(&self, name: &str, count_max: usize, bytes_max: usize) -> Result<Box<[Box<str>]>, Error> {
        let Some(value) = self.get(name) else { return Ok(Box::default()) };
        let path = self.at(name);
        let list = value.as_array().ok_or_else(|| bad(&path, "must be a list of strings"))?;
        if list.len() > count_max {
            return Err(bad(&path, &format!("has at most {count_max} entries")).with("limit", count_max));
        }
        let mut texts: Vec<Box<str>> = Vec::with_capacity(list.len());
        for (index, entry) in list.iter().enumerate() {
            let entry = text(entry, &format!("{path}[{index}]"), bytes_max)?;
            if texts.contains(&entry) {
                return Err(bad(&format!("{path}[{index}]"), "stands in the list twice"));
            }
            texts.push(entry);
        }
        Ok(texts.into_boxed_slice())
    }

    /// A member read by a function that says what is wrong with it.
    pub fn parsed<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'a Value) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        self.get(name).map(|value| read(value).map_err(|what| bad(&self.at(name), &what))).transpose()
    }
}

fn text(value: &Value, path: &str, bytes_max: usize) -> Result<Box<str>, Error> {
    let text = value.as_str().ok_or_else(|| bad(path, "must be a string"))?;
    if text.is_empty() {
        return Err(bad(path, "must not be empty"));
    }
    if text.len() > bytes_max {
        return Err(bad(path, &format!("has at most {bytes_max} bytes")).with("limit", bytes_max));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(bad(path, "must not have control characters"));
    }
    Ok(text.into())
}

/// The error for a member with a wrong value. `what` follows the member's path in the message.
#[must_use]
pub fn bad(path: &str, what: &str) -> Error {
    let named = if path.is_empty() { "the body" } else { path };
    Error::new(Code::BadMember, format!("{named} {what}")).with("member", path)
}

/// The error for a member that is not known: names the nearest that is.
#[must_use]
pub fn unknown(path: &str, name: &str, known: &[&str]) -> Error {
    match nearest(name, known.iter().copied()) {
        Some(near) => {
            let nearest =
                path.strip_suffix(name).map_or_else(|| near.to_owned(), |head| format!("{head}{near}"));
            Error::new(
                Code::UnknownMember,
                format!("there is no member {path:?}, the nearest is {nearest:?}"),
            )
            .with("member", path)
            .with("nearest", nearest)
        }
        None => Error::new(Code::UnknownMember, format!("there is no member {path:?}")).with("member", path),
    }
}

/// The nearest of the known names, if there is any at all.
#[must_use]
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let name = clipped(name);
    known.min_by_key(|known| (strsim::osa_distance(name, known), known.len()))
}

/// What similarity is judged by: its cost grows with the square of the length, so a long name is cut.
pub(super) fn clipped(name: &str) -> &str {
    let mut end = name.len().min(64);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}
