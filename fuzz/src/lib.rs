//! What is fuzzed: one function for each decoder of `weir-event`, for expressions and for filters.
//!
//! Each takes any bytes, says whether they were accepted, and panics if a promise is broken. Beside "does not
//! panic, ends soon" these are the promises that matter to whoever relies on a decoder:
//!
//! - *Faithful*: what was decoded, encoded and decoded again is the same event; and so through the other
//!   formats, up to what a format cannot say (JSON has no URI type, HTTP no empty data).
//! - *One meaning*: two ways of reading the same bytes agree (validating and decoding, at once and in
//!   pieces, whole batch and event by event), and `serde_json`, which shares no code with our scanner, can read what we write.
//! - *Safe errors*: a message is one short line, whatever the input was.
//!
//! [`TARGETS`] lists them for the runners: `fuzz_targets/` for coverage-guided fuzzing, `examples/smoke.rs` for a
//! bounded number of seeded mutations of the seeds in [`seeds`].

pub mod seeds;

use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};

use weir_event::filter::Filter;
use weir_event::frame::{self, Decoder, Frame};
use weir_event::sql::{self, Expression};
use weir_event::{Event, Stamp, Value, http, json as json_format, proto as proto_format};

/// A fuzz target.
pub struct Target {
    /// What it is called, here and in `fuzz_targets/`.
    pub name: &'static str,
    /// Tries one input; whether it was accepted. Panics if a promise is broken.
    pub run: fn(&[u8]) -> bool,
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What mutations like to insert.
    pub tokens: &'static [&'static str],
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target { name: "json", run: json, seeds: seeds::json, tokens: seeds::JSON_TOKENS },
    Target { name: "json_batch", run: json_batch, seeds: seeds::json_batch, tokens: seeds::JSON_TOKENS },
    Target { name: "proto", run: proto, seeds: seeds::proto, tokens: seeds::PROTO_TOKENS },
    Target { name: "proto_batch", run: proto_batch, seeds: seeds::proto_batch, tokens: seeds::PROTO_TOKENS },
    Target { name: "http_binary", run: http_binary, seeds: seeds::http_binary, tokens: seeds::HTTP_TOKENS },
    Target { name: "frame", run: frame, seeds: seeds::frame, tokens: seeds::FRAME_TOKENS },
    Target { name: "sql", run: sql, seeds: seeds::sql, tokens: seeds::SQL_TOKENS },
    Target { name: "filter", run: filter, seeds: seeds::filter, tokens: seeds::FILTER_TOKENS },
];

/// Most events a batch may have here.
const EVENTS_MAX: usize = 1000;

/// One event in JSON.
///
/// Strategy: text near to valid events. Invariants: a decoded event survives JSON (on one line and not),
/// protobuf and HTTP binary mode; one line is one line; `serde_json` reads what is written.
pub fn json(input: &[u8]) -> bool {
    match json_format::decode(input) {
        Err(error) => safe(error),
        Ok(event) => {
            survives_json(&event);
            survives_proto(&event);
            survives_http(&event);
            true
        }
    }
}

/// A batch in JSON.
///
/// Invariants: decoding at once and event by event agree, errors included; what was decoded survives
/// being written as a batch.
pub fn json_batch(input: &[u8]) -> bool {
    let whole = json_format::decode_batch(input, EVENTS_MAX);
    let single: Result<Vec<_>, _> = json_format::batch(input).collect();
    let events = match (whole, single) {
        (Ok(whole), Ok(single)) => {
            assert_eq!(whole, single, "at once and event by event differ");
            whole
        }
        (Err(whole), Err(single)) => {
            assert!(whole == single || whole.kind() == weir_event::Kind::TooMany, "{whole}, but {single}");
            return safe(whole);
        }
        (Err(whole), Ok(single)) => {
            assert!(single.len() > EVENTS_MAX, "only event by event it decodes: {whole}");
            return safe(whole);
        }
        (Ok(_), Err(single)) => panic!("only at once it decodes: {single}"),
    };
    let mut out = Vec::new();
    json_format::batch_start(&mut out);
    for event in &events {
        json_format::batch_push(event, event.stamp(), &mut out);
    }
    json_format::batch_end(&mut out);
    let again = json_format::decode_batch(&out, EVENTS_MAX).expect("what was written decodes");
    assert_eq!(events.len(), again.len());
    for (event, again) in events.iter().zip(&again) {
        same_texts(event, again);
        assert_eq!(event.stamp(), again.stamp());
    }
    true
}

/// One event in protobuf.
///
/// Strategy: bytes near to valid messages, for what is stored is never looked at again. Invariants: `validate`
/// and `decode` agree in everything both say; a decoded event survives protobuf with all its types, and JSON and
/// HTTP with its texts; a stamp that is added is found, and alone.
pub fn proto(input: &[u8]) -> bool {
    let (summary, event) = match (proto_format::validate(input), proto_format::decode(input)) {
        (Ok(summary), Ok(event)) => (summary, event),
        (Err(one), Err(other)) => {
            assert_eq!(one, other, "validating and decoding differ in what is wrong");
            return safe(one);
        }
        (one, other) => panic!("validating: {:?}, decoding: {:?}", one.err(), other.err()),
    };
    let seen = (summary.id, summary.source, summary.ty, summary.key(), summary.datacontenttype);
    assert_eq!(seen, (event.id(), event.source(), event.ty(), event.key(), event.datacontenttype()));
    assert_eq!(summary.subject, event.subject());
    assert_eq!(summary.data, event.data().map(|data| &*data.bytes));
    assert_eq!(summary.attributes_bytes, event.attributes_bytes());
    assert_eq!(summary.is_json(), event.is_json());
    if summary.stamped {
        assert!(summary.attributes_bytes > 0);
    } else {
        assert_eq!(event.stamp(), None);
        let mut out = Vec::new();
        proto_format::push_stamped(input, STAMP, &mut out);
        let stamped = proto_format::decode_batch(&out, 1).expect("a stamped event decodes");
        assert_eq!(stamped[0].stamp(), Some(STAMP));
        same(&stamped[0], &event);
    }
    survives_proto(&event);
    survives_json(&event);
    survives_http(&event);
    true
}

/// A batch in protobuf, which is also the form of a stored run.
///
/// Invariants: the entries lie one after the other within the input; decoding at once and event by event agree,
/// errors included; entries pushed again as they are give the same events.
pub fn proto_batch(input: &[u8]) -> bool {
    let mut batch = proto_format::batch(input);
    let (mut entries, mut end, mut broken) = (Vec::new(), 0, None);
    while let Some(entry) = batch.next() {
        match entry {
            Ok(entry) => {
                assert!(batch.end() <= input.len() && batch.end() >= end + entry.len(), "entries overlap");
                end = batch.end();
                assert_eq!(
                    &input[end - entry.len()..end],
                    entry,
                    "an entry does not lie where it is said to"
                );
                entries.push(entry);
            }
            Err(error) => broken = Some(error),
        }
    }
    match proto_format::decode_batch(input, EVENTS_MAX) {
        Err(error) => {
            let culprit = entries.iter().find_map(|entry| proto_format::validate(entry).err());
            assert!(culprit.is_some() || broken.is_some() || entries.len() > EVENTS_MAX, "{error}");
            safe(error)
        }
        Ok(events) => {
            assert_eq!((events.len(), broken), (entries.len(), None));
            let mut out = Vec::new();
            for (event, entry) in events.iter().zip(&entries) {
                assert_eq!(*event, proto_format::decode(entry).expect("an entry of a good batch decodes"));
                proto_format::push_encoded(entry, &mut out);
            }
            let again = proto_format::decode_batch(&out, EVENTS_MAX).expect("entries pushed again decode");
            assert_eq!(events, again);
            true
        }
    }
}

/// An HTTP message: lines `name: value`, an empty line, the body.
///
/// Invariants: in binary mode a decoded event survives its own headers, JSON and protobuf; the mode, the choice by
/// `Accept` and the structured and batched bodies never panic, whatever the headers say.
pub fn http_binary(input: &[u8]) -> bool {
    let (head, body) = match input.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (input, &input[..0]),
    };
    let headers: Vec<(&str, &[u8])> = head
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let value = &line[colon + 1..];
            Some((std::str::from_utf8(&line[..colon]).ok()?, value.strip_prefix(b" ").unwrap_or(value)))
        })
        .collect();
    let content_type = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let content_type = content_type.map(|&(_, value)| value);
    match http::Mode::of(content_type) {
        Err(error) => return safe(error),
        Ok(http::Mode::Structured(format)) => {
            let _ = http::decode_structured(format, body).map_err(safe);
        }
        Ok(http::Mode::Batched(format)) => {
            let _ = http::decode_batch(format, body, EVENTS_MAX).map_err(safe);
        }
        Ok(_) => {}
    }
    let accept = std::str::from_utf8(head).ok();
    let offers = [http::media::JSON_BATCH, http::media::NDJSON, http::media::PROTO_BATCH];
    if let Some(chosen) = http::negotiate(accept, &offers) {
        assert!(offers.contains(&chosen));
    }
    match http::decode_binary(headers.iter().copied(), body) {
        Err(error) => safe(error),
        Ok(event) => {
            assert!(http::has_context(headers.iter().map(|&(name, _)| name)));
            survives_http(&event);
            survives_proto(&event);
            survives_json(&event);
            true
        }
    }
}

/// STREAM frames as they arrive: the first byte says in which pieces.
///
/// Invariants: fed at once and fed in pieces, a decoder gives the same frames and the same error; frames encoded
/// again decode to the same; after an error nothing but that error comes.
pub fn frame(input: &[u8]) -> bool {
    let Some((&first, bytes)) = input.split_first() else {
        return false;
    };
    let feed = |pieces: usize| {
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        for piece in bytes.chunks(pieces.max(1)) {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(decoder.next(), Err(error.clone()), "an error must last");
                        return (frames, Some(error), false);
                    }
                }
            }
        }
        let at_boundary = decoder.is_at_boundary();
        (frames, None, at_boundary)
    };
    let (frames, error, at_boundary) = feed(bytes.len());
    assert_eq!(feed(usize::from(first)), (frames.clone(), error.clone(), at_boundary), "pieces matter");
    let mut out = Vec::new();
    for frame in &frames {
        match frame {
            Frame::Run(run) => {
                assert!(run.count > 0 && run.last() >= run.first);
                for event in proto_format::batch(&run.body).flatten() {
                    proto(event);
                }
                frame::push_run(&run.head(), &run.body, &mut out)
            }
            Frame::Heartbeat(payload) => frame::push(frame::HEARTBEAT, payload, &mut out),
            Frame::Notice(payload) => frame::push(frame::NOTICE, payload, &mut out),
            Frame::End(payload) => frame::push(frame::END, payload, &mut out),
            Frame::State(payload) => frame::push(frame::STATE, payload, &mut out),
            _ => continue,
        }
        .expect("a frame that was read can be written");
    }
    let mut decoder = Decoder::new();
    decoder.push(&out);
    for frame in &frames {
        assert_eq!(decoder.next(), Ok(Some(frame.clone())));
    }
    assert!(decoder.is_at_boundary());
    error.is_none_or(safe) && !frames.is_empty()
}

/// A CESQL expression.
///
/// Invariants: evaluation ends without a panic, for an event with every type of attribute and for one with none; both
/// modes agree; the normal form parses to the same expression with the same values, and is its own normal form.
pub fn sql(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let expression = match Expression::parse(&text) {
        Err(error) => {
            assert!(error.offset <= text.len() && error.line > 0 && error.column > 0);
            return safe(error);
        }
        Ok(expression) => expression,
    };
    let events = [seeds::rich(), seeds::plain()];
    for event in &events {
        let (value, errors) = expression.evaluate(event);
        assert_eq!(expression.matches(event), errors.is_empty() && value == sql::Value::Boolean(true));
        errors.into_iter().for_each(|error| {
            safe(error);
        });
    }
    let normal = expression.to_string();
    if normal.len() <= sql::BYTES_MAX {
        let again = Expression::parse(&normal).unwrap_or_else(|error| panic!("{normal}: {error}"));
        assert_eq!(again, expression);
        assert_eq!(again.to_string(), normal);
        for event in &events {
            assert_eq!(again.evaluate(event), expression.evaluate(event), "{normal}");
        }
    }
    if Expression::parse_filter(&text).is_ok() {
        assert!(Filter::sql(&text).is_ok());
    }
    true
}

/// The filters of a subscription, in JSON.
///
/// Invariants: matching never panics; what comes back as JSON is what was given and an equal filter, with an
/// equal hash; a filter repeated, or joined with itself, is equal to itself.
pub fn filter(input: &[u8]) -> bool {
    let Ok(given) = serde_json::from_slice::<serde_json::Value>(input) else {
        return false;
    };
    let filter = match Filter::parse(&given) {
        Err(error) => {
            assert!(given.pointer(error.pointer()).is_some(), "{} points nowhere", error.pointer());
            return safe(error);
        }
        Ok(filter) => filter,
    };
    assert_eq!(filter.to_json(), given);
    let hash = |filter: &Filter, hasher: &RandomState| hasher.hash_one(filter);
    let hasher = RandomState::new();
    let twice = filter.and(&filter);
    assert_eq!(twice, filter);
    assert_eq!(hash(&twice, &hasher), hash(&filter, &hasher));
    for event in [seeds::rich(), seeds::plain()] {
        assert_eq!(twice.matches(&event), filter.matches(&event));
        assert!(!filter.is_everything() || filter.matches(&event));
    }
    true
}

const STAMP: Stamp = Stamp { position: weir_event::flow::Position(41), time: weir_event::flow::Time(1_500) };

/// Checks that a message can be shown to whoever sent the input, and says that it was not accepted.
fn safe(error: impl Display) -> bool {
    let message = error.to_string();
    assert!(!message.is_empty() && message.len() < 1000, "{} bytes of message", message.len());
    assert!(!message.contains(|c: char| c.is_control()), "more than one line: {message:?}");
    false
}

/// Every attribute as text, and the data.
fn texts<'e>(event: &'e Event<'_>) -> (Vec<(&'e str, String)>, Option<&'e [u8]>) {
    let optional = event.attributes().map(|(name, value)| (name, value.text().into_owned()));
    let required = [("id", event.id()), ("source", event.source()), ("type", event.ty())];
    let required = required.map(|(name, text)| (name, text.to_owned()));
    let mut attributes: Vec<_> = required.into_iter().chain(optional).collect();
    attributes.sort();
    (attributes, event.data().map(|data| &*data.bytes))
}

/// The same attributes, as text, and the same data.
fn same_texts(one: &Event<'_>, other: &Event<'_>) {
    assert_eq!(texts(one), texts(other));
}

/// The same in everything but the stamp.
fn same(one: &Event<'_>, other: &Event<'_>) {
    same_texts(one, other);
    let typed = |event: &Event<'_>| -> Vec<(String, Value<'static>)> {
        event.attributes().map(|(name, value)| (name.to_owned(), value.clone().into_owned())).collect()
    };
    assert_eq!(typed(one), typed(other));
    assert_eq!((one.data(), one.extra()), (other.data(), other.extra()));
}

fn survives_json(event: &Event<'_>) {
    for stamp in [None, Some(STAMP)] {
        let (mut line, mut document) = (Vec::new(), Vec::new());
        json_format::encode(event, stamp, &mut line);
        json_format::encode_document(event, stamp, &mut document);
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'), "more than one line");
        for written in [line, document] {
            let again = json_format::decode(&written).expect("what was written decodes");
            same_texts(event, &again);
            assert_eq!(again.stamp(), stamp);
            if let Err(error) = serde_json::from_slice::<serde_json::Value>(&written) {
                // Data stays as it came; what it may hold and `serde_json` refuses: 1e999, half of a surrogate pair,
                // nesting deeper than 128 levels.
                let known = ["out of range", "hex escape", "surrogate", "recursion"];
                assert!(known.iter().any(|known| error.to_string().contains(known)), "{error}");
            }
        }
    }
}

fn survives_proto(event: &Event<'_>) {
    let mut written = Vec::new();
    proto_format::encode(event, &mut written);
    assert_eq!(written.len(), proto_format::encoded_len(event));
    let again = proto_format::decode(&written).expect("what was written decodes");
    same(event, &again);
    let mut twice = Vec::new();
    proto_format::encode(&again, &mut twice);
    assert_eq!(written, twice);
}

fn survives_http(event: &Event<'_>) {
    let mut headers = Vec::new();
    http::encode_binary(event, Some(STAMP), |name, value| {
        assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{name}: {value:?} is no header");
        headers.push((name.to_owned(), value.to_owned()));
    });
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let (attributes, data) = texts(event);
    let again = http::decode_binary(headers, data.unwrap_or_default()).expect("what was written decodes");
    assert_eq!(texts(&again), (attributes, data.filter(|data| !data.is_empty())));
    assert_eq!(again.stamp(), Some(STAMP));
}
