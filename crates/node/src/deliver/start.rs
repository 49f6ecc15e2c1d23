//! Where a delivery begins.

use std::sync::Arc;

use weir_event::flow::{History, Position, Time};
use weir_log::{Head, Log, StreamId};

use super::Notice;
use crate::control::{Reader, Start};
use crate::error::{Code, Error};

/// Where a consumer wants to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// At the subscription's cursor; without one where readers of this kind begin.
    Default(Start),
    /// Here, as the consumer says (`from`).
    From(Start),
    /// After the last position it got (`Last-Event-ID`).
    After(Position),
}

/// Where a delivery begins, or why it can't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With the first event at or after this position, of this history.
    At(Position, History),
    /// Positions mean something else now.
    OtherHistory { was: Option<History>, head: Head },
}

impl Begin {
    /// The notice for another history.
    pub(crate) fn notice(was: Option<History>, head: Head) -> Notice {
        Notice::History { was, now: head.history, head: head.last }
    }
}

/// Finds where to begin: where the consumer wants, but not before where its subscription begins nor before what
/// the producer imposed.
///
/// `cursor` is what the subscription has acknowledged. Errors: `bad-position` for a position beyond the end.
pub(crate) async fn begin(
    log: &Arc<dyn Log>,
    reader: &Reader,
    resume: Resume,
    history: Option<History>,
    cursor: Option<(History, Position)>,
) -> Result<Begin, Error> {
    let stream = reader.stream.id;
    let status = log.status(stream)?;
    let head = Head { last: status.last, history: status.history };
    if let Some(was) = history.filter(|was| *was != head.history) {
        return Ok(Begin::OtherHistory { was: Some(was), head });
    }
    let wanted = match (resume, cursor) {
        (Resume::From(start), _) => {
            let position = resolve(log, stream, start, head).await?;
            if position > head.last.next() {
                return Err(Error::new(
                    Code::BadPosition,
                    format!("the stream has no position {position} yet, its last is {}", head.last),
                )
                .with("head", head.last.0));
            }
            position
        }
        // The consumer has seen what the stream no longer has, or has anew: it is from another history.
        (Resume::After(last), _) if last > head.last => {
            return Ok(Begin::OtherHistory { was: history, head });
        }
        (Resume::After(last), _) => last.next(),
        (Resume::Default(_), Some((was, _))) if was != head.history && history.is_none() => {
            return Ok(Begin::OtherHistory { was: Some(was), head });
        }
        (Resume::Default(_), Some((was, floor))) if was == head.history => floor.next(),
        (Resume::Default(start), _) => resolve(log, stream, start, head).await?,
    };
    let mut position = wanted.max(Position::FIRST);
    if let Some(after) = reader.after.filter(|after| after.history == head.history) {
        position = position.max(after.after.next());
    }
    if let Some(start) = reader.not_before {
        position = position.max(resolve(log, stream, start, head).await?);
    }
    Ok(Begin::At(position, head.history))
}

/// The position that a start means now.
pub(crate) async fn resolve(
    log: &Arc<dyn Log>,
    stream: StreamId,
    start: Start,
    head: Head,
) -> Result<Position, Error> {
    Ok(match start {
        // Not the first position ever: what retention took before is no surprise to who asks for what is kept.
        Start::Earliest => match log.status(stream)?.first {
            Position::NONE => head.last.next(),
            first => first,
        },
        Start::Latest => head.last.next(),
        Start::Position(position) => position.max(Position::FIRST),
        Start::Time(time) => log.find(stream, time).await?,
    })
}

/// The last position that `to` includes: itself, the last event appended at or before a time, or the present
/// head.
pub(crate) async fn until(
    log: &Arc<dyn Log>,
    stream: StreamId,
    to: Start,
    head: Head,
) -> Result<Position, Error> {
    Ok(match to {
        Start::Earliest => log.status(stream)?.first,
        Start::Latest => head.last,
        Start::Position(position) => position,
        Start::Time(time) => log.find(stream, Time(time.0.saturating_add(1))).await?.previous(),
    })
}
