//! What each format costs for one event of 256 bytes: `cargo run --release -p weir-event --example codec_speed`.
//!
//! Prints the best of several rounds in nanoseconds for an event: noise only ever adds.

use std::hint::black_box;
use std::time::Instant;

use weir_event::{Event, Stamp, flow, frame, http, json, proto};

const EVENTS: usize = 1000;
const ROUNDS: usize = 60;

fn main() -> Result<(), weir_event::Error> {
    let texts: Vec<Vec<u8>> = (0..EVENTS).map(event).collect();
    let mut json_batch = Vec::new();
    let mut proto_batch = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        json_batch.extend_from_slice(if at == 0 { b"[" } else { b"," });
        json_batch.extend_from_slice(text);
        proto::push(&json::decode(text)?, &mut proto_batch);
    }
    json_batch.push(b']');
    let events = proto::decode_batch(&proto_batch, EVENTS)?;
    println!("JSON {} bytes, protobuf {} bytes an event", texts[0].len(), proto_batch.len() / EVENTS);
    let mut out = Vec::with_capacity(1 << 20);

    measure("protobuf batch, validate", || {
        let valid =
            proto::batch(&proto_batch).filter(|event| event.clone().and_then(proto::validate).is_ok());
        valid.count()
    });
    measure("protobuf batch, decode", || {
        proto::batch(&proto_batch).filter(|event| event.clone().and_then(proto::decode).is_ok()).count()
    });
    measure("protobuf, encode", || {
        out.clear();
        events.iter().for_each(|event| proto::push(event, &mut out));
        out.len()
    });
    measure("JSON, decode", || texts.iter().filter(|text| json::decode(text).is_ok()).count());
    measure("JSON, decode, protobuf encode", || {
        out.clear();
        for text in &texts {
            if let Ok(event) = json::decode(text) {
                proto::push(&event, &mut out);
            }
        }
        out.len()
    });
    measure("JSON batch, decode, protobuf encode", || {
        out.clear();
        json::batch(&json_batch).flatten().for_each(|event| proto::push(&event, &mut out));
        out.len()
    });
    measure("JSON by serde_json, to a value", || {
        texts.iter().filter(|text| serde_json::from_slice::<serde_json::Value>(text).is_ok()).count()
    });
    measure("JSON, encode", || {
        out.clear();
        events.iter().for_each(|event| json::encode(event, None, &mut out));
        out.len()
    });
    let mut position = 0;
    measure("protobuf decode, JSON encode with position", || {
        out.clear();
        for event in proto::batch(&proto_batch).flatten() {
            position += 1;
            let stamp = Stamp { position: flow::Position(position), time: flow::Time(1_791_158_399_999) };
            if let Ok(event) = proto::decode(event) {
                json::encode(&event, Some(stamp), &mut out);
            }
        }
        out.len()
    });
    let headers: Vec<Vec<(String, String)>> = events.iter().map(headers).collect();
    measure("HTTP binary, decode", || {
        let pairs = headers.iter().zip(&events).filter(|(headers, event)| {
            let headers = headers.iter().map(|(name, value)| (&**name, value.as_bytes()));
            http::decode_binary(headers, event.data().map_or(&[], |data| &data.bytes)).is_ok()
        });
        pairs.count()
    });
    let (history, first, time) = (flow::History(1), flow::Position(1), flow::Time(0));
    let head =
        frame::Head { stream: "weather.us.ny", history, first, count: 1000, time, encoding: frame::EVENTS };
    measure("STREAM run of 1000, encode and decode", || {
        out.clear();
        let mut decoder = frame::Decoder::new();
        if frame::push_run(&head, &proto_batch, &mut out).is_ok() {
            decoder.push(&out);
        }
        usize::from(matches!(decoder.next(), Ok(Some(_))))
    });
    Ok(())
}

fn measure(what: &str, mut run: impl FnMut() -> usize) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        black_box(run());
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{:>8.0} ns  {what}", best * 1e9 / EVENTS as f64);
}

/// An event of 256 bytes in JSON.
fn event(number: usize) -> Vec<u8> {
    let mut text = format!(
        r#"{{"specversion":"1.0","id":"{number:08}","source":"/bench/1","type":"us.weather.observation.v1","subject":"KJFK","time":"2026-01-31T12:00:00.123Z","datacontenttype":"application/json","data":{{"temp":39.02,"wind":10.35,"pad":""#
    );
    let pad = 253usize.saturating_sub(text.len());
    text.extend(std::iter::repeat_n('x', pad));
    text.push_str("\"}}");
    text.into_bytes()
}

fn headers(event: &Event<'_>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    http::encode_binary(event, None, |name, value| headers.push((name.to_owned(), value.to_owned())));
    headers
}
