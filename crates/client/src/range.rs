//! Reading a range of a stream: the pull of what is already there, page by page.

use std::time::Duration;

use reqwest::{Method, header};
use weir_event::flow::StreamName;
use weir_event::{Event, proto};

use crate::client::Client;
use crate::{Error, Kind};

/// What to read. Both ends may be a position, an RFC 3339 time, `earliest` or `latest`, and are inclusive.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Where to begin; the earliest event if not given.
    pub from: Option<String>,
    /// Where to end; the latest event of now if not given.
    pub to: Option<String>,
    /// At most so many events in a page.
    pub limit: Option<u32>,
    /// A CESQL expression.
    pub filter: Option<String>,
}

/// A range being read.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    what: String,
    /// The URL of the next page; none behind the last.
    next: Option<String>,
}

/// Some of a range's events, in order. Possibly none: a node stops after a stated scan, whatever it found.
#[derive(Debug)]
pub struct Events {
    body: Vec<u8>,
}

/// A page: at most what a node scans at a time, as it states.
const PAGE_BYTES_MAX: usize = 256 << 20;

impl Client {
    /// Reads a range of a stream of this node.
    pub fn read(&self, stream: &StreamName, range: &Range) -> Result<Reader, Error> {
        let mut url = reqwest::Url::parse(&format!("{}/streams/{stream}/events", self.node()))
            .map_err(|error| Error::new(Kind::Invalid, format!("{}: {error}", self.node())))?;
        let limit = range.limit.map(|limit| limit.to_string());
        for (name, value) in
            [("from", &range.from), ("to", &range.to), ("limit", &limit), ("filter", &range.filter)]
        {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        Ok(Reader { client: self.clone(), what: format!("read stream {stream}"), next: Some(url.into()) })
    }
}

impl Reader {
    /// The next page; none at the end.
    pub async fn page(&mut self) -> Result<Option<Events>, Error> {
        let Some(url) = &self.next else { return Ok(None) };
        let request = self
            .client
            .request(Method::GET, url)
            .header(header::ACCEPT, "application/cloudevents-batch+protobuf")
            .timeout(Duration::from_secs(120));
        let response = self.client.call(&self.what, request).await?;
        let next =
            response.headers().get_all(header::LINK).iter().find_map(|link| next_of(link.to_str().ok()?));
        let next = next.map(|target| self.absolute(target)).transpose()?;
        let body = self.client.body(&self.what, response, PAGE_BYTES_MAX).await?;
        self.next = next;
        Ok(Some(Events { body }))
    }

    /// A link's target against the node. One that leads elsewhere is refused: the credential must not follow it.
    fn absolute(&self, target: &str) -> Result<String, Error> {
        if target.starts_with('/') && !target.starts_with("//") {
            let base = reqwest::Url::parse(self.client.node()).ok();
            return match base.and_then(|base| base.join(target).ok()) {
                Some(url) => Ok(url.into()),
                None => Err(Error::new(Kind::Internal, format!("{}: a next page at {target}", self.what))),
            };
        }
        if let Some(query) = target.strip_prefix('?') {
            let path = self.next.as_deref().unwrap_or_default().split('?').next().unwrap_or_default();
            return Ok(format!("{path}?{query}"));
        }
        if target.strip_prefix(self.client.node()).is_some_and(|rest| rest.starts_with('/')) {
            return Ok(target.to_owned());
        }
        Err(Error::new(Kind::Internal, format!("{}: the next page is said to be at {target}", self.what)))
    }
}

impl Events {
    /// The events; each carries its position and time as [`Event::stamp`].
    pub fn iter(&self) -> impl Iterator<Item = Result<Event<'_>, Error>> {
        proto::batch(&self.body).map(|entry| {
            entry
                .and_then(proto::decode)
                .map_err(|error| Error::new(Kind::Internal, format!("read an event of a range: {error}")))
        })
    }
}

/// The target of a Link header (RFC 8288) whose relation is `next`.
fn next_of(link: &str) -> Option<&str> {
    link.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            matches!(parameter.trim().split_once('='), Some(("rel", value)) if value.trim_matches('"') == "next")
        });
        is_next.then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links_and_must_be_the_nodes() {
        assert_eq!(
            next_of(r#"</a>; rel="prev", </streams/x/events?from=9>; rel="next""#),
            Some("/streams/x/events?from=9")
        );
        assert_eq!(next_of("</b>;rel=next"), Some("/b"));
        assert_eq!(next_of("</b>;rel=last"), None);
        let client = Client::new("http://a.example:1", None).unwrap();
        let reader = client.read(&"x".parse().unwrap(), &Range::default()).unwrap();
        assert_eq!(
            reader.absolute("/streams/x/events?from=9").unwrap(),
            "http://a.example:1/streams/x/events?from=9"
        );
        assert_eq!(reader.absolute("?from=9").unwrap(), "http://a.example:1/streams/x/events?from=9");
        assert!(reader.absolute("http://evil.example/").is_err());
        assert!(reader.absolute("//evil.example/").is_err());
    }
}
