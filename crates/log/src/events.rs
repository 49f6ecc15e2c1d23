//! The little that the log must know of an event's bytes: where one ends, what its id and source are, and what
//! is left of it when its data is erased.
//!
//! A stored body is one CloudEvents protobuf batch: for each event tag `0x0A`, length, `CloudEvent` (CloudEvents
//! protobuf format 1.0: `id` = 1, `source` = 2, `spec_version` = 3, `type` = 4, `attributes` = 5). The events were
//! checked when they were admitted; here nothing is taken for granted all the same, and malformed bytes give `None`.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

const ID: u64 = 1;
const TYPE: u64 = 4;
/// `attributes` entry `erased` = Boolean true: field 5, a map entry of key "erased" and value { `ce_boolean`: 1 }.
const ERASED: &[u8] = b"\x2a\x0c\x0a\x06erased\x12\x02\x08\x01";

/// The key of the hash that finds duplicates: random per data directory, so that nobody can make ids collide.
pub(crate) type HashKey = [u8; 16];

/// Reads a varint; the number and what follows.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field's number, its content if it is length-delimited, all its bytes, and what follows it.
type Field<'a> = (u64, Option<&'a [u8]>, &'a [u8], &'a [u8]);

/// Splits the first field off.
fn field(bytes: &[u8]) -> Option<Field<'_>> {
    let (tag, rest) = varint(bytes)?;
    let (content, rest) = match tag & 7 {
        0 => (None, varint(rest)?.1),
        1 => (None, rest.get(8..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            let length = usize::try_from(length).ok()?;
            (Some(rest.get(..length)?), &rest[length..])
        }
        5 => (None, rest.get(4..)?),
        _ => return None,
    };
    Some((tag >> 3, content, &bytes[..bytes.len() - rest.len()], rest))
}

/// Splits the first event off a batch: the event without its tag and length, and the rest.
pub(crate) fn split_first(batch: &[u8]) -> Option<(&[u8], &[u8])> {
    match field(batch)? {
        (1, Some(event), _, rest) => Some((event, rest)),
        _ => None,
    }
}

/// The event at `index` of a batch, without its tag and length.
#[cfg(test)]
fn nth(mut batch: &[u8], index: usize) -> Option<&[u8]> {
    for _ in 0..index {
        batch = split_first(batch)?.1;
    }
    split_first(batch).map(|(event, _)| event)
}

/// Finds events of a batch one after the other without walking it from the start each time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    batch: u64,
    index: usize,
    at: usize,
}

impl Cursor {
    /// The event at `index` of a batch that grows only at its end and is known by a number.
    pub(crate) fn seek<'a>(&mut self, batch: u64, bytes: &'a [u8], index: usize) -> Option<&'a [u8]> {
        if self.batch != batch || index < self.index || self.at > bytes.len() {
            *self = Self { batch, index: 0, at: 0 };
        }
        let mut rest = &bytes[self.at..];
        loop {
            let (event, next) = split_first(rest)?;
            if self.index == index {
                return Some(event);
            }
            (self.index, self.at, rest) = (self.index + 1, bytes.len() - next.len(), next);
        }
    }
}

/// Where the event at `index` of a batch begins, tag and length included.
pub(crate) fn offset_of(batch: &[u8], index: usize) -> Option<usize> {
    let mut rest = batch;
    for _ in 0..index {
        rest = split_first(rest)?.1;
    }
    Some(batch.len() - rest.len())
}

/// An event's id and source; empty where it has none.
pub(crate) fn identity(event: &[u8]) -> (&[u8], &[u8]) {
    let (mut id, mut source): (&[u8], &[u8]) = (&[], &[]);
    let mut rest = event;
    // Encoders write fields in order, so this ends after two of them.
    while let Some((number, content, _, next)) = field(rest) {
        match (number, content) {
            (ID, Some(content)) => id = content,
            (2, Some(content)) => source = content,
            _ => {}
        }
        if !id.is_empty() && !source.is_empty() {
            break;
        }
        rest = next;
    }
    (id, source)
}

/// The hash under which an event's publisher, source and id are remembered.
pub(crate) fn hash(key: &HashKey, publisher: u64, event: &[u8]) -> u64 {
    let (id, source) = identity(event);
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(&publisher.to_le_bytes());
    hasher.write(&(source.len() as u64).to_le_bytes());
    hasher.write(source);
    hasher.write(id);
    hasher.finish()
}

/// Whether two events say the same: the same fields, in whatever order their encoder put them.
pub(crate) fn same_content(a: &[u8], b: &[u8]) -> bool {
    let fields = |mut rest| {
        let mut fields = Vec::new();
        while let Some((_, _, whole, next)) = field(rest) {
            fields.push(whole);
            rest = next;
        }
        fields.sort_unstable();
        fields
    };
    a == b || (a.len() == b.len() && fields(a) == fields(b))
}

/// Adds what an erase leaves of an event to a batch: id, source, specversion and type, and that it was erased.
pub(crate) fn push_erased(event: &[u8], out: &mut Vec<u8>) {
    let mut kept = Vec::new();
    let mut rest = event;
    while let Some((number, _, whole, next)) = field(rest) {
        if (ID..=TYPE).contains(&number) {
            kept.extend_from_slice(whole);
        }
        rest = next;
    }
    kept.extend_from_slice(ERASED);
    out.push(0x0a);
    put_varint(kept.len() as u64, out);
    out.extend_from_slice(&kept);
}

/// Adds an event to a batch. Tests use it to make bodies.
#[cfg(any(test, feature = "sim"))]
pub(crate) fn push(id: &str, source: &str, data: &[u8], out: &mut Vec<u8>) {
    let mut event = Vec::new();
    for (tag, value) in
        [(0x0a, id.as_bytes()), (0x12, source.as_bytes()), (0x1a, b"1.0"), (0x22, b"t"), (0x32, data)]
    {
        event.push(tag);
        put_varint(value.len() as u64, &mut event);
        event.extend_from_slice(value);
    }
    out.push(0x0a);
    put_varint(event.len() as u64, out);
    out.extend_from_slice(&event);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Vec<u8> {
        let mut out = Vec::new();
        for i in 0..3_usize {
            push(&format!("id-{i}"), "/source", &vec![b'x'; i * 100], &mut out);
        }
        out
    }

    #[test]
    fn events_are_found_by_index() {
        let batch = batch();
        assert_eq!(identity(nth(&batch, 2).unwrap()), (&b"id-2"[..], &b"/source"[..]));
        assert_eq!(nth(&batch, 3), None);
        let at = offset_of(&batch, 1).unwrap();
        assert_eq!(identity(split_first(&batch[at..]).unwrap().0).0, b"id-1");
        assert_eq!(offset_of(&batch, 3), Some(batch.len()));
    }

    #[test]
    fn the_hash_is_of_publisher_source_and_id_alone() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        push("1", "/a", b"one", &mut a);
        push("1", "/a", b"two", &mut b);
        let key = [7; 16];
        let (a, b) = (nth(&a, 0).unwrap(), nth(&b, 0).unwrap());
        assert_eq!(hash(&key, 1, a), hash(&key, 1, b));
        assert_ne!(hash(&key, 1, a), hash(&key, 2, a));
        assert_ne!(hash(&key, 1, a), hash(&[8; 16], 1, a));
        assert!(!same_content(a, b) && same_content(a, a));
    }

    #[test]
    fn content_is_the_same_in_any_order_of_fields() {
        assert!(same_content(b"\x0a\x011\x12\x01s", b"\x12\x01s\x0a\x011"));
        assert!(!same_content(b"\x0a\x011\x12\x01s", b"\x12\x011\x0a\x01s"));
    }

    #[test]
    fn an_erased_event_keeps_its_identity_only() {
        let batch = batch();
        let mut out = Vec::new();
        push_erased(nth(&batch, 2).unwrap(), &mut out);
        let event = nth(&out, 0).unwrap();
        assert_eq!(identity(event), (&b"id-2"[..], &b"/source"[..]));
        assert!(!out.windows(10).any(|w| w == b"xxxxxxxxxx"));
        assert!(out.windows(6).any(|w| w == b"erased"));
    }

    #[test]
    fn malformed_bytes_are_none_and_never_panic() {
        for bytes in [
            &b"\x0a"[..],
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0a\x05abc",
            b"\xff",
            b"\x12\x00",
        ] {
            assert_eq!(split_first(bytes), None);
            let _ = (identity(bytes), hash(&[0; 16], 0, bytes), offset_of(bytes, 1));
        }
    }
}
