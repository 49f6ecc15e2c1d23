//! What an event is does not depend on how it travelled: whatever formats and bindings it passes, in whatever
//! order, its attributes, their values and the bytes of its data stay. Through the formats' public faces only.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::borrow::Cow;

use proptest::prelude::*;
use weir_event::flow::{Position, Time};
use weir_event::http::{Format, Mode};
use weir_event::{Data, Event, Form, Stamp, Timestamp, Value, http, json, proto};

/// A way from one holder of an event to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hop {
    Json,
    JsonDocument,
    JsonBatch,
    Proto,
    ProtoBatch,
    ProtoStamped,
    HttpBinary,
    HttpStructured(Format),
    HttpBatch(Format),
}

const HOPS: [Hop; 11] = [
    Hop::Json,
    Hop::JsonDocument,
    Hop::JsonBatch,
    Hop::Proto,
    Hop::ProtoBatch,
    Hop::ProtoStamped,
    Hop::HttpBinary,
    Hop::HttpStructured(Format::Json),
    Hop::HttpStructured(Format::Protobuf),
    Hop::HttpBatch(Format::Json),
    Hop::HttpBatch(Format::Protobuf),
];

impl Hop {
    /// Whether the types of attributes survive, and not only their texts.
    fn keeps_types(self) -> bool {
        use Hop::{HttpBatch, HttpStructured, Proto, ProtoBatch, ProtoStamped};
        matches!(
            self,
            Proto
                | ProtoBatch
                | ProtoStamped
                | HttpStructured(Format::Protobuf)
                | HttpBatch(Format::Protobuf)
        )
    }

    fn pass(self, event: &Event<'_>) -> Event<'static> {
        let stamp = Stamp { position: Position(7), time: Time(1_791_158_399_999) };
        let mut out = Vec::new();
        match self {
            Hop::Json => {
                json::encode(event, Some(stamp), &mut out);
                assert!(!out.contains(&b'\n') && !out.contains(&b'\r'), "one line");
                let read = json::decode(&out).unwrap();
                assert_eq!(read.stamp(), Some(stamp));
                read.into_owned()
            }
            Hop::JsonDocument => {
                json::encode_document(event, None, &mut out);
                // Another reader gets it; but for numbers beyond what it can hold.
                if let Err(error) = serde_json::from_slice::<serde_json::Value>(&out) {
                    assert!(error.to_string().contains("out of range"), "{error}");
                }
                json::decode(&out).unwrap().into_owned()
            }
            Hop::JsonBatch => {
                json::batch_start(&mut out);
                json::batch_push(event, Some(stamp), &mut out);
                json::batch_push(event, None, &mut out);
                json::batch_end(&mut out);
                both(json::decode_batch(&out, 2).unwrap())
            }
            Hop::Proto => {
                proto::encode(event, &mut out);
                assert_eq!(proto::encoded_len(event), out.len());
                let summary = proto::validate(&out).unwrap();
                assert_eq!(summary.attributes_bytes, event.attributes_bytes());
                assert_eq!((summary.key(), summary.is_json()), (event.key(), event.is_json()));
                proto::decode(&out).unwrap().into_owned()
            }
            Hop::ProtoBatch => {
                proto::push(event, &mut out);
                let one = proto::batch(&out).next().unwrap().unwrap().to_vec();
                proto::push_encoded(&one, &mut out);
                both(proto::decode_batch(&out, 2).unwrap())
            }
            Hop::ProtoStamped => {
                let mut stored = Vec::new();
                proto::encode(event, &mut stored);
                proto::push_stamped(&stored, stamp, &mut out);
                let read = proto::decode(proto::batch(&out).next().unwrap().unwrap()).unwrap();
                assert_eq!(read.stamp(), Some(stamp));
                read.into_owned()
            }
            Hop::HttpBinary => {
                let mut headers = Vec::new();
                http::encode_binary(event, Some(stamp), |name, value| {
                    headers.push((name.to_uppercase(), value.to_owned()));
                });
                let content_type = headers.iter().find(|(name, _)| name == "CONTENT-TYPE");
                let content_type = content_type.map(|(_, value)| value.as_bytes());
                assert_eq!(Mode::of(content_type), Ok(Mode::Binary));
                let pairs = headers.iter().map(|(name, value)| (&**name, value.as_bytes()));
                let body = event.data().map_or(&[][..], |data| &data.bytes);
                http::decode_binary(pairs, body).unwrap().into_owned()
            }
            Hop::HttpStructured(format) => {
                http::encode_structured(format, event, &mut out);
                assert_eq!(Mode::of(Some(format.structured().as_bytes())), Ok(Mode::Structured(format)));
                http::decode_structured(format, &out).unwrap().into_owned()
            }
            Hop::HttpBatch(format) => {
                http::encode_batch(format, [event, event], &mut out);
                assert_eq!(Mode::of(Some(format.batched().as_bytes())), Ok(Mode::Batched(format)));
                both(http::decode_batch(format, &out, 2).unwrap())
            }
        }
    }
}

/// The two equal events of a batch of two.
fn both(events: Vec<Event<'_>>) -> Event<'static> {
    let mut events = events.into_iter().map(Event::into_owned);
    let (first, second) = (events.next().unwrap(), events.next().unwrap());
    assert_eq!(outline(&first), outline(&second));
    assert_eq!(events.next(), None);
    first
}

/// What must stay of an event on every way.
fn outline(event: &Event<'_>) -> (Vec<(String, String)>, Option<Vec<u8>>) {
    let required = ["id", "source", "specversion", "type"];
    let required = required.map(|name| (name.to_owned(), event.get(name).unwrap().text().into_owned()));
    let mut attributes: Vec<_> = event
        .attributes()
        .map(|(name, value)| (name.to_owned(), value.text().into_owned()))
        .chain(required)
        .collect();
    attributes.sort();
    (attributes, event.data().map(|data| data.bytes.to_vec()))
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,20}",
        "\\PC{0,12}",
        Just(" \"%20\\ ".to_owned()),
        Just("\u{200b}\u{feff}\u{2028}".to_owned()),
    ]
}

fn uri() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,5}://[a-z.]{1,9}(/[A-Za-z0-9._~!$&'()*+,;=:@-]{0,5}|%[0-9a-fA-F]{2}){0,3}(\\?[a-z=&/?]{0,5})?(#[a-z/?]{0,4})?",
        "urn:[a-z]{1,4}:[a-z0-9]{1,9}",
    ]
}

fn uri_reference() -> impl Strategy<Value = String> {
    prop_oneof![
        uri(),
        "/[a-z0-9/%]{0,9}".prop_map(|path| path.replace('%', "%2f")),
        "(\\.\\./)?[a-z]{1,5}/?:?"
    ]
    .prop_filter("no scheme where there is none", |text| Event::new("1", text.as_str(), "t").is_ok())
}

fn timestamp() -> impl Strategy<Value = Value<'static>> {
    let parts = (1i32..=9998, 1u32..=12, 1u32..=28, 0u32..24, 0u32..60, 0u32..60);
    let tail = "(\\.[0-9]{1,12})?(Z|z|[+-](0[0-9]|1[0-4]):[0-5][0-9])";
    (parts, prop::sample::select(&["T", "t"][..]), tail).prop_filter_map(
        "in the range of protobuf",
        |((year, month, day, hour, minute, second), t, tail)| {
            let text = format!("{year:04}-{month:02}-{day:02}{t}{hour:02}:{minute:02}:{second:02}{tail}");
            Timestamp::parse(text).map(Value::Timestamp)
        },
    )
}

fn value() -> impl Strategy<Value = Value<'static>> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        text().prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Binary(Cow::Owned(bytes))),
        uri().prop_map(|text| Value::Uri(Cow::Owned(text))),
        uri_reference().prop_map(|text| Value::UriRef(Cow::Owned(text))),
        timestamp(),
    ]
}

fn data() -> impl Strategy<Value = Data<'static>> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        text().prop_map(String::into_bytes),
        text().prop_map(|text| serde_json::to_vec(&text).unwrap()),
        prop::collection::vec(prop::sample::select(&b"{}[]\":,1e. \n\r\t\\ua"[..]), 0..12),
        prop::sample::select(
            &[
                "null",
                "{ \"a\" : [1.0, 2e3] }",
                "[1,\r\n2]",
                " 1",
                "1 ",
                "\"\\ud800\"",
                "{\"a\":1,\"a\":2}",
                ""
            ][..]
        )
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    let form = prop_oneof![
        Just(Form::Text),
        Just(Form::Binary),
        "[a-z/.]{0,9}".prop_map(|type_url| Form::Proto { type_url: Cow::Owned(type_url) }),
    ];
    (bytes, form).prop_map(|(bytes, form)| Data { bytes: Cow::Owned(bytes), form })
}

prop_compose! {
    fn event()(
        id in text().prop_filter("not empty", |text| !text.is_empty()),
        source in uri_reference(),
        ty in "[a-z]{1,9}(\\.[a-z0-9]{1,5}){0,4}",
        time in prop::option::of(timestamp()),
        subject in prop::option::of(text().prop_filter("not empty", |text| !text.is_empty())),
        content_type in prop::option::of(prop::sample::select(&["application/json", "text/plain", "text/json; charset=utf-8", "application/xml", "application/octet-stream", "a/b+JSON"][..])),
        schema in prop::option::of(uri()),
        extensions in prop::collection::btree_map("x[a-z0-9]{0,12}|partitionkey", value(), 0..20),
        data in prop::option::of(data()),
    ) -> Event<'static> {
        let mut event = Event::new(id, source, ty).unwrap();
        let known = [("time", time), ("subject", subject.map(Value::from)), ("datacontenttype", content_type.map(Value::from)), ("dataschema", schema.map(Value::from))];
        for (name, value) in known {
            if let Some(value) = value { event.set(name, value).unwrap(); }
        }
        for (name, value) in extensions { event.set(name, value).unwrap(); }
        event.set_data(data);
        event
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn an_event_stays_the_same_on_every_way(event in event(), hops in prop::collection::vec(prop::sample::select(&HOPS[..]), 1..6)) {
        let mut passed = event.clone();
        let mut expected = outline(&event);
        for (at, hop) in hops.iter().enumerate() {
            passed = hop.pass(&passed);
            // The binding has no body for empty data.
            if *hop == Hop::HttpBinary { expected.1 = expected.1.filter(|data| !data.is_empty()); }
            prop_assert_eq!(outline(&passed), expected.clone(), "after {:?}", &hops[..=at]);
        }
        // What the specification types has its type whatever the way.
        for (name, ty) in [("time", "Timestamp"), ("dataschema", "URI"), ("subject", "String"), ("datacontenttype", "String")] {
            if let Some(value) = passed.get(name) { prop_assert_eq!(value.type_name(), ty); }
        }
    }

    /// Every pair of ways, there and back: the second gives what the first gave.
    #[test]
    fn every_pair_of_ways_agrees(event in event()) {
        for first in HOPS {
            let once = first.pass(&event);
            for second in HOPS {
                let expected = outline(&once);
                let twice = outline(&second.pass(&once));
                prop_assert_eq!(&twice.0, &expected.0, "{:?} {:?}", first, second);
                if second != Hop::HttpBinary || expected.1.as_ref().is_some_and(|data| !data.is_empty()) {
                    prop_assert_eq!(&twice.1, &expected.1, "{:?} {:?}", first, second);
                }
            }
        }
    }

    #[test]
    fn protobuf_keeps_types_order_and_extras(event in event(), extra in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), hops in prop::collection::vec(prop::sample::select(&HOPS[..]), 1..6)) {
        let mut event = event;
        event.set_extra(extra.map(Cow::Owned));
        // Bytes that only claim to be text are bytes once encoded.
        let event = Hop::Proto.pass(&event);
        let mut passed = event.clone();
        for hop in hops.iter().filter(|hop| hop.keeps_types()) {
            passed = hop.pass(&passed);
            prop_assert_eq!(passed.attributes().collect::<Vec<_>>(), event.attributes().collect::<Vec<_>>());
            prop_assert_eq!((passed.data(), passed.extra()), (event.data(), event.extra()));
        }
    }

    #[test]
    fn any_value_that_can_be_set_travels(name in "[a-z0-9]{1,20}", text in any::<String>()) {
        let mut event = Event::new("1", "/a", "t").unwrap();
        if event.set(name, text).is_ok() {
            for hop in HOPS {
                prop_assert_eq!(outline(&hop.pass(&event)), outline(&event), "{:?}", hop);
            }
        }
    }
}
