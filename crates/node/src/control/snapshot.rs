//! Snapshots: the state at a position, so that a start need not fold every decision there ever was.
//!
//! A snapshot is a shortcut and never the truth. It is taken only if this program's fold made it, it is whole, it
//! is of the same history as `_weir.state` and not beyond what the log holds; otherwise the state is folded anew.
//! The file is JSON lines, records only, closed by a line with their digest.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use weir_event::flow::{History, Position};

use super::files;
use super::members::Members;
use super::record::{Stream, Token, needed, number};
use super::state::{FOLD, Retired, State};
use super::subscription::Subscription;
use crate::error::{Code, Error};

const NAME: &str = "state.snapshot";

/// The bytes of a snapshot of `state`, which was folded from `history`.
#[must_use]
pub(super) fn encode(state: &State, history: History) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |value: Value| {
        bytes.extend(value.to_string().into_bytes());
        bytes.push(b'\n');
    };
    let (position, time, next_stream, had_token) = state.header();
    put(json!({
        "fold": FOLD,
        "history": history,
        "position": position,
        "time": time,
        "next_stream": next_stream,
        "had_token": had_token,
    }));
    for stream in state.streams() {
        put(json!({"stream": stream.to_record()}));
    }
    for (at, retired) in state.all_retired() {
        put(json!({"retired": retired.stream.to_record(), "at": at, "reason": retired.reason}));
    }
    for subscription in state.subscriptions() {
        put(json!({"subscription": subscription.to_record()}));
    }
    for token in state.tokens() {
        put(json!({"token": token.to_record()}));
    }
    let digest = Sha256::digest(&bytes);
    bytes.extend(format!("{{\"sha256\":\"{}\"}}\n", hex(&digest)).into_bytes());
    bytes
}

/// Writes a snapshot in place of the one before. Blocks.
pub(super) fn save(dir: &Path, bytes: &[u8]) -> std::io::Result<()> {
    files::replace(&dir.join(NAME), bytes)
}

/// The newest snapshot, if there is one to be trusted for a log of this history that ends at `head`. Blocks.
#[must_use]
pub(super) fn load(dir: &Path, history: History, head: Position) -> Option<State> {
    let bytes = match files::load(&dir.join(NAME)) {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::warn!(%error, "the state's snapshot can not be read, folding all decisions instead");
            return None;
        }
    };
    match decode(&bytes) {
        Ok((state, of)) if of == history && state.position() <= head => Some(state),
        Ok(_) => {
            tracing::warn!("the state's snapshot is not of this log, folding all decisions instead");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "the state's snapshot is not usable, folding all decisions instead");
            None
        }
    }
}

/// Reads a snapshot and the history it was folded from.
pub(super) fn decode(bytes: &[u8]) -> Result<(State, History), Error> {
    let damaged = || Error::new(Code::Corrupt, "the snapshot is damaged");
    let body = bytes.strip_suffix(b"\n").ok_or_else(damaged)?;
    let (records, seal) = match body.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => bytes.split_at(end + 1),
        None => return Err(damaged()),
    };
    if seal != format!("{{\"sha256\":\"{}\"}}\n", hex(&Sha256::digest(records))).into_bytes() {
        return Err(damaged());
    }
    let mut lines = records.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let read = |line: &[u8]| serde_json::from_slice::<Value>(line).map_err(|_| damaged());
    let header = read(lines.next().ok_or_else(damaged)?)?;
    if header.get("fold").and_then(Value::as_u64) != Some(u64::from(FOLD)) {
        return Err(Error::new(Code::Corrupt, "the snapshot is of another version of the fold"));
    }
    let known = ["fold", "history", "position", "time", "next_stream", "had_token"];
    let header = Members::of(&header, "snapshot", &known)?;
    let mut state = State::restore(
        Position(number(&header, "position")?),
        needed(&header, "time")?,
        number(&header, "next_stream")?,
        header.get("had_token").and_then(Value::as_bool).unwrap_or_default(),
    );
    for line in lines {
        let line = read(line)?;
        if let Some(stream) = line.get("stream") {
            state.put_stream(Arc::new(Stream::from_record(stream)?));
        } else if let Some(stream) = line.get("retired") {
            let at = line.get("at").and_then(Value::as_u64).ok_or_else(damaged)?;
            let reason = line.get("reason").and_then(Value::as_str).map(Box::from);
            let stream = Arc::new(Stream::from_record(stream)?);
            state.put_retired(Position(at), Retired { stream, reason });
        } else if let Some(subscription) = line.get("subscription") {
            state.put_subscription(Arc::new(Subscription::from_record(subscription)?));
        } else if let Some(token) = line.get("token") {
            state.put_token(Arc::new(Token::from_record(token)?));
        } else {
            return Err(damaged());
        }
    }
    Ok((state, needed(&header, "history")?))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
