//! What the driver publishes: requests made once and patched in place for each send.
//!
//! Every event has an id never used before (a random prefix per run, then a counter) and, in its data, the
//! moment it was sent on the driver's monotonic clock, so that one clock measures end to end.

use clap::ValueEnum;

/// How a publish travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// One event a request: attributes as `ce-` headers.
    Binary,
    /// One event a request: a structured JSON event.
    Structured,
    /// A JSON batch.
    JsonBatch,
    /// A protobuf batch.
    ProtoBatch,
}

impl Form {
    pub(super) fn is_batch(self) -> bool {
        matches!(self, Form::JsonBatch | Form::ProtoBatch)
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::Binary => "application/json",
            Form::Structured => "application/cloudevents+json",
            Form::JsonBatch => "application/cloudevents-batch+json",
            Form::ProtoBatch => "application/cloudevents-batch+protobuf",
        }
    }
}

const ID_DIGITS: usize = 16;
const SENT_DIGITS: usize = 16;
/// What stands before the send time in an event's data; subscribers look for it.
pub(super) const SENT_KEY: &[u8] = b"\"sent\":\"";

/// A request of `batch` events and where its ids and send times lie.
pub(super) struct Request {
    bytes: Vec<u8>,
    ids: Vec<usize>,
    sents: Vec<usize>,
    next: u64,
    step: u64,
}

impl Request {
    /// A request to publish `batch` events of about `size` bytes each into `path`.
    ///
    /// `lane` of `lanes`: the counters of several connections never meet.
    pub(super) fn new(
        path: &str,
        form: Form,
        batch: usize,
        size: usize,
        run: u32,
        lane: u64,
        lanes: u64,
    ) -> Self {
        let marker = format!("{:0width$}", 0, width = ID_DIGITS);
        let id = format!("{run:08x}-{marker}");
        let event = |form| event(form, &id, size);
        let mut head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {}\r\n", form.content_type());
        let mut body = Vec::new();
        match form {
            Form::Binary => {
                head.push_str(&format!(
                    "ce-specversion: 1.0\r\nce-id: {id}\r\nce-source: {SOURCE}\r\nce-type: {TYPE}\r\n"
                ));
                body = data(size.saturating_sub(120));
            }
            Form::Structured => body = event(Form::Structured),
            Form::JsonBatch => {
                let one = event(Form::Structured);
                body.push(b'[');
                for index in 0..batch {
                    if index > 0 {
                        body.push(b',');
                    }
                    body.extend_from_slice(&one);
                }
                body.push(b']');
            }
            Form::ProtoBatch => {
                let one = event(Form::ProtoBatch);
                for _ in 0..batch {
                    field(&mut body, 1, &one);
                }
            }
        }
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(&body);
        let ids = memchr::memmem::find_iter(&bytes, id.as_bytes()).map(|at| at + 9).collect();
        let sents = memchr::memmem::find_iter(&bytes, SENT_KEY).map(|at| at + SENT_KEY.len()).collect();
        Self { bytes, ids, sents, next: lane, step: lanes }
    }

    /// The request with new ids and the given send time.
    pub(super) fn stamp(&mut self, now: u64) -> &[u8] {
        for at in &self.ids {
            digits(&mut self.bytes[*at..*at + ID_DIGITS], self.next);
            self.next += self.step;
        }
        for at in &self.sents {
            digits(&mut self.bytes[*at..*at + SENT_DIGITS], now);
        }
        &self.bytes
    }

    /// Bytes on the wire, HTTP's head included.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

const SOURCE: &str = "/weir/bench";
const TYPE: &str = "weir.bench.v1";

fn event(form: Form, id: &str, size: usize) -> Vec<u8> {
    if form == Form::ProtoBatch {
        let mut out = Vec::new();
        field(&mut out, 1, id.as_bytes());
        field(&mut out, 2, SOURCE.as_bytes());
        field(&mut out, 3, b"1.0");
        field(&mut out, 4, TYPE.as_bytes());
        // attributes["datacontenttype"] = CloudEventAttributeValue{ce_string: "application/json"}
        let mut value = Vec::new();
        field(&mut value, 3, b"application/json");
        let mut entry = Vec::new();
        field(&mut entry, 1, b"datacontenttype");
        field(&mut entry, 2, &value);
        field(&mut out, 5, &entry);
        let text = data(size.saturating_sub(out.len() + 3));
        field(&mut out, 7, &text);
        return out;
    }
    let mut out = format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"{SOURCE}","type":"{TYPE}","datacontenttype":"application/json","data":"#
    )
    .into_bytes();
    out.extend_from_slice(&data(size.saturating_sub(out.len() + 1)));
    out.push(b'}');
    out
}

/// JSON data of about `size` bytes that begins with the send time.
fn data(size: usize) -> Vec<u8> {
    let zero = "0".repeat(SENT_DIGITS);
    let fixed = format!(r#"{{"sent":"{zero}","pad":""}}"#).len();
    let pad = "x".repeat(size.saturating_sub(fixed));
    format!(r#"{{"sent":"{zero}","pad":"{pad}"}}"#).into_bytes()
}

/// A length-delimited protobuf field.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

fn digits(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// The send times found in a piece of a stream; the piece's end, which may cut one, is kept for the next call.
pub(super) struct Sents {
    finder: memchr::memmem::Finder<'static>,
    held: Vec<u8>,
}

impl Sents {
    pub(super) fn new() -> Self {
        Self { finder: memchr::memmem::Finder::new(SENT_KEY), held: Vec::new() }
    }

    /// Calls `found` with each send time in `piece`.
    pub(super) fn scan(&mut self, piece: &[u8], mut found: impl FnMut(u64)) {
        self.held.extend_from_slice(piece);
        let whole = SENT_KEY.len() + SENT_DIGITS;
        let mut from = 0;
        while let Some(at) = self.finder.find(&self.held[from..]) {
            let start = from + at;
            if self.held.len() < start + whole {
                from = start;
                break;
            }
            let digits = &self.held[start + SENT_KEY.len()..start + whole];
            found(digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit.wrapping_sub(b'0'))));
            from = start + whole;
        }
        // What is left holds no whole mark; keep only what could be the beginning of one.
        let keep = self.held.len().saturating_sub(whole - 1).max(from);
        self.held.drain(..keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_stamped_with_new_ids_and_the_time() {
        for (form, batch) in
            [(Form::Binary, 1), (Form::Structured, 1), (Form::JsonBatch, 3), (Form::ProtoBatch, 3)]
        {
            let mut request = Request::new("/streams/b/events", form, batch, 256, 7, 0, 1);
            assert_eq!(request.ids.len(), batch, "{form:?}");
            assert_eq!(request.sents.len(), batch, "{form:?}");
            let first = request.stamp(123).to_vec();
            let second = request.stamp(123).to_vec();
            assert_ne!(first, second);
            let mut seen = Vec::new();
            Sents::new().scan(&first, |sent| seen.push(sent));
            assert_eq!(seen, vec![123; batch]);
        }
    }

    #[test]
    fn events_have_the_asked_size() {
        for form in [Form::Structured, Form::ProtoBatch] {
            let id = format!("{:08x}-{:016}", 7, 0);
            let size = event(form, &id, 256).len();
            assert!((254..=256).contains(&size), "{form:?} {size}");
        }
    }

    #[test]
    fn send_times_are_found_across_cuts() {
        let text = [&data(100)[..], &data(100)[..]].concat();
        for cut in 0..text.len() {
            let mut sents = Sents::new();
            let mut count = 0;
            sents.scan(&text[..cut], |_| count += 1);
            sents.scan(&text[cut..], |_| count += 1);
            assert_eq!(count, 2, "cut at {cut}");
        }
    }
}
