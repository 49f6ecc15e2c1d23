//! Cursors: what each subscription has acknowledged.
//!
//! A cursor is a floor, up to which everything counts as seen, and the acknowledged ranges above it. Cursors are
//! no decisions: they live in memory and are saved together, at most once a second and at stop, in one file that
//! is replaced as a whole. A crash redelivers at most what was acknowledged since. A cursor belongs to a history
//! of its stream; acknowledging positions of another one is refused, because they mean other events.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use tokio::sync::watch;
use weir_event::flow::{History, Position};

use super::files;
use super::snapshot::hex;
use super::subscription::{Origin, SubscriptionId};
use crate::error::{Code, Error};

/// How many positions may stay open above the floor.
pub const OPEN_MAX: u64 = 10_000;

/// What a subscription has acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The history and the position up to which everything is acknowledged.
    pub floor: Origin,
    /// Acknowledged ranges above the floor: inclusive, ascending, neither touching nor overlapping.
    pub above: Vec<(Position, Position)>,
}

impl Cursor {
    /// A cursor at a place.
    #[must_use]
    pub fn at(floor: Origin) -> Self {
        Self { floor, above: Vec::new() }
    }

    /// The highest acknowledged position.
    #[must_use]
    pub fn highest(&self) -> Position {
        self.above.last().map_or(self.floor.after, |range| range.1)
    }

    /// Acknowledges a range, inclusive. What lies below the floor is acknowledged already.
    ///
    /// Errors: `limit-reached` if more than [`OPEN_MAX`] positions would stay open below the highest; nothing
    /// changes then.
    pub fn ack(&mut self, from: Position, to: Position) -> Result<(), Error> {
        let from = from.max(self.floor.after.next());
        if to < from {
            return Ok(());
        }
        let first = self.above.partition_point(|range| range.1.next() < from);
        let last = self.above.partition_point(|range| range.0 <= to.next());
        let joined = match self.above.get(first..last) {
            Some([one, ..]) => {
                let end = self.above.get(last.saturating_sub(1)).map_or(to, |range| range.1.max(to));
                (one.0.min(from), end)
            }
            _ => (from, to),
        };
        if joined.0 > self.floor.after.next() {
            let acknowledged: u64 = self.above.iter().map(|range| range.1.0 - range.0.0 + 1).sum();
            let replaced: u64 = self
                .above
                .get(first..last)
                .unwrap_or_default()
                .iter()
                .map(|range| range.1.0 - range.0.0 + 1)
                .sum();
            let highest = self.highest().max(joined.1);
            let open =
                highest.0 - self.floor.after.0 - (acknowledged - replaced) - (joined.1.0 - joined.0.0 + 1);
            if open > OPEN_MAX {
                return Err(Error::new(
                    Code::LimitReached,
                    format!(
                        "more than {OPEN_MAX} positions would stay open below {to}; acknowledge those first"
                    ),
                )
                .with("limit", OPEN_MAX)
                .with("floor", self.floor.after.0));
            }
        }
        self.above.splice(first..last, [joined]);
        if let Some(lowest) = self.above.first()
            && lowest.0 <= self.floor.after.next()
        {
            self.floor.after = lowest.1;
            self.above.remove(0);
        }
        Ok(())
    }
}

/// All cursors of a node.
#[derive(Debug)]
pub struct Cursors {
    path: PathBuf,
    slots: RwLock<HashMap<SubscriptionId, Arc<Slot>>>,
    dirty: AtomicBool,
}

#[derive(Debug)]
struct Slot {
    cursor: Mutex<Cursor>,
    moves: watch::Sender<Position>,
}

impl Cursors {
    /// Reads the file. A damaged one is left out: its subscriptions go on from where they started.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("cursors");
        let mut slots = HashMap::new();
        if let Some(bytes) = files::load(&path)? {
            match decode(&bytes) {
                Some(cursors) => {
                    slots.extend(cursors.into_iter().map(|(id, cursor)| (id, Arc::new(Slot::new(cursor)))));
                }
                None => {
                    tracing::error!("the file of cursors is damaged, subscriptions go on from their start")
                }
            }
        }
        Ok(Self { path, slots: RwLock::new(slots), dirty: AtomicBool::new(false) })
    }

    /// A subscription's cursor; `start` is where it stands if it never moved.
    #[must_use]
    pub fn get(&self, id: SubscriptionId, start: Origin) -> Cursor {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(&id).map_or_else(|| Cursor::at(start), |slot| slot.lock().clone())
    }

    /// Rises with the floor, and is set to it when the cursor is moved by hand.
    #[must_use]
    pub fn moves(&self, id: SubscriptionId, start: Origin) -> watch::Receiver<Position> {
        self.slot(id, start).moves.subscribe()
    }

    /// Acknowledges ranges, inclusive, of one history. All or none.
    ///
    /// Errors: `history-changed`, `limit-reached`.
    pub fn ack(
        &self,
        id: SubscriptionId,
        start: Origin,
        of: History,
        ranges: &[(Position, Position)],
    ) -> Result<Position, Error> {
        let slot = self.slot(id, start);
        let mut cursor = slot.lock();
        if cursor.floor.history != of {
            return Err(Error::new(
                Code::HistoryChanged,
                "the acknowledged positions are of another history than the subscription's cursor",
            )
            .with("history", cursor.floor.history.to_string())
            .with("floor", cursor.floor.after.0));
        }
        match ranges {
            [(from, to)] => cursor.ack(*from, *to)?,
            _ => {
                let mut moved = cursor.clone();
                ranges.iter().try_for_each(|(from, to)| moved.ack(*from, *to))?;
                *cursor = moved;
            }
        }
        let floor = cursor.floor.after;
        drop(cursor);
        self.moved(&slot, floor);
        Ok(floor)
    }

    /// Sets a cursor.
    pub fn set(&self, id: SubscriptionId, to: Origin) {
        let slot = self.slot(id, to);
        *slot.lock() = Cursor::at(to);
        self.moved(&slot, to.after);
    }

    /// Forgets the cursors of subscriptions that are not `live`.
    pub fn retain(&self, live: impl Fn(SubscriptionId) -> bool) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let before = slots.len();
        slots.retain(|id, _| live(*id));
        if slots.len() < before {
            self.dirty.store(true, Ordering::Relaxed);
        }
    }

    /// Saves all cursors if any moved since the last time. Blocks.
    pub fn save(&self) -> io::Result<()> {
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let slots: Vec<_> = {
            let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            slots.iter().map(|(id, slot)| (*id, Arc::clone(slot))).collect()
        };
        let saved =
            files::replace(&self.path, &encode(slots.iter().map(|(id, slot)| (*id, slot.lock().clone()))));
        if saved.is_err() {
            self.dirty.store(true, Ordering::Release);
        }
        saved
    }

    fn moved(&self, slot: &Slot, floor: Position) {
        self.dirty.store(true, Ordering::Release);
        slot.moves.send_if_modified(|at| std::mem::replace(at, floor) != floor);
    }

    fn slot(&self, id: SubscriptionId, start: Origin) -> Arc<Slot> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&id) {
            return Arc::clone(slot);
        }
        drop(slots);
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(id).or_insert_with(|| Arc::new(Slot::new(Cursor::at(start)))))
    }
}

impl Slot {
    fn new(cursor: Cursor) -> Self {
        let moves = watch::Sender::new(cursor.floor.after);
        Self { cursor: Mutex::new(cursor), moves }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cursor> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(cursors: impl Iterator<Item = (SubscriptionId, Cursor)>) -> Vec<u8> {
    let mut bytes = b"{\"cursors\":1}\n".to_vec();
    for (id, cursor) in cursors {
        let line = json!({
            "subscription": id.to_string(),
            "history": cursor.floor.history,
            "floor": cursor.floor.after,
            "above": cursor.above,
        });
        bytes.extend(line.to_string().into_bytes());
        bytes.push(b'\n');
    }
    let digest = hex(&Sha256::digest(&bytes));
    bytes.extend(format!("{{\"sha256\":\"{digest}\"}}\n").into_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<(SubscriptionId, Cursor)>> {
    let end = bytes.strip_suffix(b"\n")?.iter().rposition(|byte| *byte == b'\n')? + 1;
    let (body, seal) = bytes.split_at(end);
    let expected = format!("{{\"sha256\":\"{}\"}}\n", hex(&Sha256::digest(body)));
    if seal != expected.as_bytes() || !body.starts_with(b"{\"cursors\":1}\n") {
        return None;
    }
    body.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty()).map(entry).collect()
}

fn entry(line: &[u8]) -> Option<(SubscriptionId, Cursor)> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let text = |name: &str| line.get(name)?.as_str();
    let floor =
        Origin { history: text("history")?.parse().ok()?, after: Position(line.get("floor")?.as_u64()?) };
    let above = serde_json::from_value(line.get("above")?.clone()).ok()?;
    Some((text("subscription")?.parse().ok()?, Cursor { floor, above }))
}
