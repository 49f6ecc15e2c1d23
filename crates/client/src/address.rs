//! Where a stream is: the forms in which people write it, and what a client makes of them.
//!
//! | written | means |
//! |---|---|
//! | `flow://acme.example/weather.us.ny` | resolved by `https://acme.example/.well-known/flow` |
//! | `flow+http://127.0.0.1:8080/weather.us.ny` | the same without TLS: loopback and tests only |
//! | `https://node.acme.example/streams/weather.us.ny` | the stream on that node (also `http://`) |
//! | `weather.us.ny` | on the node the client was made for |

use std::fmt;
use std::str::FromStr;

use weir_event::flow::StreamName;

use crate::{Error, Kind};

/// A stream anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where it is.
    pub place: Place,
    /// Its name there.
    pub stream: StreamName,
}

/// Where a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the node the client was made for.
    Here,
    /// On whatever node the well-known file at this origin (`https://acme.example`) names.
    Resolved(String),
    /// On the node with this base URL.
    Node(String),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            Error::new(
                Kind::Invalid,
                format!(
                    "{text} is not the address of a stream: {why}; write flow://ORGANIZATION/STREAM, \
                     https://NODE/streams/STREAM or a STREAM of the node given by --node"
                ),
            )
        };
        let name = |name: &str| name.parse::<StreamName>().map_err(|error| wrong(&error.to_string()));
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self { place: Place::Here, stream: name(text)? });
        };
        let rest = rest.split(['?', '#']).next().unwrap_or(rest).trim_end_matches('/');
        let (place, stream) = match scheme {
            "flow" | "flow+http" => {
                let (authority, stream) = rest.split_once('/').ok_or_else(|| wrong("it names no stream"))?;
                let scheme = if scheme == "flow" { "https" } else { "http" };
                (
                    Place::Resolved(format!(
                        "{scheme}://{}",
                        authority_of(authority).ok_or_else(|| wrong("its host is missing"))?
                    )),
                    stream,
                )
            }
            "https" | "http" => {
                let (node, stream) =
                    rest.rsplit_once("/streams/").ok_or_else(|| wrong("its path is not /streams/STREAM"))?;
                authority_of(node.split('/').next().unwrap_or(node))
                    .ok_or_else(|| wrong("its host is missing"))?;
                (Place::Node(format!("{scheme}://{node}")), stream)
            }
            _ => return Err(wrong("its scheme is none of flow, flow+http, https and http")),
        };
        Ok(Self { place, stream: name(stream)? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Here => write!(f, "{}", self.stream),
            Place::Node(node) => write!(f, "{node}/streams/{}", self.stream),
            Place::Resolved(origin) => match origin.split_once("://") {
                Some(("http", authority)) => write!(f, "flow+http://{authority}/{}", self.stream),
                Some((_, authority)) => write!(f, "flow://{authority}/{}", self.stream),
                None => write!(f, "{origin}/{}", self.stream),
            },
        }
    }
}

/// The authority if it has a host and holds no credentials: a token in a URL ends in logs and histories.
fn authority_of(authority: &str) -> Option<&str> {
    let host = authority.split(':').next().unwrap_or_default();
    (!host.is_empty() && !authority.contains('@')).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for (text, place) in [
            ("weather.us.ny", Place::Here),
            ("flow://acme.example/weather.us.ny", Place::Resolved("https://acme.example".into())),
            ("flow+http://127.0.0.1:8080/weather.us.ny", Place::Resolved("http://127.0.0.1:8080".into())),
            ("https://n.example/streams/weather.us.ny", Place::Node("https://n.example".into())),
            ("http://n.example/a/streams/weather.us.ny", Place::Node("http://n.example/a".into())),
            ("http://[::1]:8080/streams/weather.us.ny", Place::Node("http://[::1]:8080".into())),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.place, place);
            assert_eq!(address.stream.as_str(), "weather.us.ny");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_names_no_stream_is_refused_with_the_forms_there_are() {
        for text in [
            "",
            "Weather",
            "flow://acme.example",
            "flow:///x",
            "ftp://a/b",
            "https://a/x",
            "flow://u:p@a.example/x",
            "http:///streams/a",
            "https://a/streams/a/events",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            assert!(error.to_string().contains("flow://ORGANIZATION/STREAM"), "{text}");
        }
    }
}
