//! The query of a URL: bounded, decoded once, and strict.
//!
//! A parameter that a call does not know is an error that names the nearest known one: a misspelt `form=41` must
//! not quietly deliver from the latest event on. A parameter given twice is an error too, since two readers of
//! one URL could otherwise disagree about which one counts.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use http::Uri;
use percent_encoding::percent_decode_str;

use crate::error::{Code, Error};

/// The longest query that is read, in bytes. A filter expression is the only long thing in one.
pub(crate) const QUERY_BYTES_MAX: usize = 16 * 1024;

/// How many entries a list has per page when `limit` does not say, and at most.
pub(crate) const PAGE: usize = 100;
/// The greatest `limit` of a list.
pub(crate) const PAGE_MAX: usize = 1000;

/// The most bytes of a reason that a person gives for a decision.
pub(crate) const REASON_BYTES_MAX: usize = 1000;

/// The decoded parameters of one request.
#[derive(Debug)]
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Reads the query of `uri`, which may have the parameters in `known` and no others.
    pub(crate) fn of(uri: &Uri, known: &[&'static str]) -> Result<Self, Error> {
        let Some(query) = uri.query() else { return Ok(Self(Vec::new())) };
        if query.len() > QUERY_BYTES_MAX {
            let message = format!("the query is longer than {QUERY_BYTES_MAX} bytes");
            return Err(Error::new(Code::MalformedRequest, message).with("limit", QUERY_BYTES_MAX));
        }
        let mut found: Vec<(&'static str, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            let Some(name) = known.iter().find(|known| **known == name) else {
                return Err(unknown(&name, known));
            };
            if found.iter().any(|(seen, _)| seen == name) {
                return Err(bad(name, "is given twice"));
            }
            found.push((name, value));
        }
        Ok(Self(found))
    }

    /// A parameter's value; present without `=` it is the empty text.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    /// A parameter as something with a text form.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Error> {
        let parse =
            |text: &str| text.parse().map_err(|error: T::Err| bad(name, &format!("is not valid: {error}")));
        self.get(name).map(parse).transpose()
    }

    /// A parameter as a number within bounds.
    pub(crate) fn number(&self, name: &str, bounds: RangeInclusive<u64>) -> Result<Option<u64>, Error> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if bounds.contains(&number) => Ok(Some(number)),
            _ => Err(bad(name, &format!("is a number from {} to {}", bounds.start(), bounds.end()))),
        }
    }

    /// A parameter as a switch: `1`, `true` or nothing after the name turn it on, `0` and `false` off.
    pub(crate) fn switch(&self, name: &str) -> Result<bool, Error> {
        match self.get(name) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true" | "") => Ok(true),
            Some(_) => Err(bad(name, "is 1 or 0")),
        }
    }

    /// How many entries of a list are asked for: `limit`, from 1 to [`PAGE_MAX`].
    pub(crate) fn page(&self) -> Result<usize, Error> {
        let limit = self.number("limit", 1..=PAGE_MAX as u64)?;
        Ok(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE))
    }

    /// Why somebody decides: `reason`, bounded as it is in a body.
    pub(crate) fn reason(&self) -> Result<Option<Box<str>>, Error> {
        match self.get("reason") {
            None | Some("") => Ok(None),
            Some(text) if text.len() > REASON_BYTES_MAX || text.chars().any(char::is_control) => {
                Err(bad("reason", &format!("has at most {REASON_BYTES_MAX} bytes and no control characters")))
            }
            Some(text) => Ok(Some(text.into())),
        }
    }
}

/// The error of a parameter whose value is wrong.
pub(crate) fn bad(name: &str, what: &str) -> Error {
    Error::new(Code::BadParameter, format!("the parameter {name} {what}")).with("parameter", name)
}

fn unknown(name: &str, known: &[&'static str]) -> Error {
    // The cost of comparing names grows with the square of their length.
    let name: String = name.chars().take(64).collect();
    let error = |message| Error::new(Code::UnknownParameter, message).with("parameter", name.as_str());
    let nearest = known.iter().min_by_key(|known| (strsim::damerau_levenshtein(&name, known), known.len()));
    match nearest {
        Some(nearest) => error(format!("there is no parameter {name} here, the nearest is {nearest}"))
            .with("nearest", *nearest)
            .with("known", known.to_vec()),
        None => error("this call takes no parameters".to_owned()),
    }
}

/// Percent-decodes one name or value, with `+` as space, as forms and every HTTP client write it.
fn decode(text: &str) -> Result<String, Error> {
    let text = text.replace('+', " ");
    match percent_decode_str(&text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(Error::new(Code::MalformedRequest, "the query is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, Error> {
        Query::of(&format!("/x?{text}").parse().unwrap(), &["from", "limit", "filter"])
    }

    #[test]
    fn values_are_decoded_once() {
        let query = query("from=2026-01-01T00:00:00%2B02:00&filter=a+%3D+%27%2525%27&&limit=7").unwrap();
        assert_eq!(query.get("from"), Some("2026-01-01T00:00:00+02:00"));
        assert_eq!(query.get("filter"), Some("a = '%25'"));
        assert_eq!(query.page().unwrap(), 7);
        assert_eq!(query.get("to"), None);
    }

    #[test]
    fn misspelt_repeated_and_wild_parameters_are_refused() {
        let error = query("form=41").unwrap_err();
        assert_eq!(error.code(), Code::UnknownParameter);
        assert_eq!(error.members()["nearest"], "from");
        assert_eq!(query("from=1&from=2").unwrap_err().code(), Code::BadParameter);
        assert_eq!(query("from=%ff").unwrap_err().code(), Code::MalformedRequest);
        assert_eq!(query(&"a".repeat(QUERY_BYTES_MAX + 1)).unwrap_err().code(), Code::MalformedRequest);
        for bad in ["0", "1001", "-1", "x", ""] {
            assert_eq!(
                query(&format!("limit={bad}")).unwrap().page().unwrap_err().code(),
                Code::BadParameter
            );
        }
    }
}
