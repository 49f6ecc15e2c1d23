use proptest::prelude::*;
use weir_event::flow::History;
use weir_event::frame::{Decoder, Frame};
use weir_event::{Data, json};
use weir_log::SkipReason;

use super::*;
use crate::control::Filters;

/// An event with an id that names its position, and `bytes` of data.
fn stored(position: u64, bytes: usize) -> Vec<u8> {
    let mut event = Event::new(format!("e{position}"), "/test", "t").unwrap();
    event.set("subject", if position.is_multiple_of(2) { "even" } else { "odd" }).unwrap();
    event.set_data(Some(Data::binary(vec![b'x'; bytes])));
    let mut out = Vec::new();
    proto::push(&event, &mut out);
    out
}

fn run(first: u64, sizes: &[usize]) -> Run {
    let body: Vec<u8> = (first..).zip(sizes).flat_map(|(position, &bytes)| stored(position, bytes)).collect();
    Run {
        first: Position(first),
        count: u32::try_from(sizes.len()).unwrap(),
        time: Time(first / 10 * 1000),
        history: History(7),
        encoding: Encoding::Events,
        body: body.into(),
    }
}

/// Runs with gaps between some of them, as a log would read them.
fn read() -> impl Strategy<Value = Read> {
    let sizes = prop_oneof![20 => 0..400_usize, 1 => 100_000..200_000_usize, 1 => Just(BYTES_MAX + 1)];
    let runs = prop::collection::vec(
        (prop::option::weighted(0.2, 1..5_u64), prop::collection::vec(sizes, 1..12)),
        0..8,
    );
    (1..50_u64, runs).prop_map(|(start, runs)| {
        let mut read = Read { next: Position(start), ..Read::default() };
        for (gap, sizes) in runs {
            if let Some(gap) = gap {
                let to = read.next.plus(gap).previous();
                read.skipped.push(Skipped { from: read.next, to, reason: SkipReason::Gap });
                read.next = to.next();
            }
            let run = run(read.next.0, &sizes);
            read.next = run.last().next();
            read.runs.push(run);
        }
        read
    })
}

proptest! {
    #[test]
    fn blocks_hold_each_wanted_event_once_and_announce_each_gap(
        read in read(),
        skip in 0..20_u64,
        take in 0..60_u64,
    ) {
        let begin = read.runs.first().map_or(read.next, |run| run.first);
        let (from, until) = (begin.plus(skip), begin.plus(skip + take));
        let blocks = Block::cut(read.clone(), History(8), from, until);
        let mut at = from;
        for block in &blocks {
            prop_assert!(block.bytes() <= BYTES_MAX || block.count() == 1);
            for skipped in block.skipped() {
                if skipped.to < at { continue }
                prop_assert!(skipped.from <= at);
                at = skipped.to.next();
            }
            for index in 0..block.count() {
                prop_assert_eq!(block.position(index), at);
                let event = block.event(index).unwrap();
                let id = format!("e{at}");
                prop_assert_eq!(event.id(), id.as_str());
                at = at.next();
            }
            prop_assert_eq!(block.next(), at);
        }
        let last = read.next.previous().min(until);
        let in_gap = read.skipped.iter().any(|skipped| skipped.from <= last && last <= skipped.to);
        prop_assert!(at == last.next() || in_gap || last < from, "reached {at}, wanted {last}");
    }

    #[test]
    fn a_piece_in_parts_is_the_same_piece(
        sizes in prop::collection::vec(0..300_usize, 1..20),
        bytes in 1..3000_usize,
        way in any::<bool>(),
    ) {
        let block = Block::new(Vec::new(), History(8), vec![run(5, &sizes)], Position(5));
        let rules = Rules::default();
        let chosen = block.choose(&rules);
        let all = 0..chosen.len(&block);
        let encode = |numbers: Range<u32>| if way {
            chosen.sse(&block, &rules, numbers)
        } else {
            chosen.stream(&block, &rules, "s", numbers)
        };
        let piece = encode(all);
        let mut whole = Vec::new();
        let mut next = Position(5);
        for part in piece.parts_of(bytes) {
            prop_assert!(part.events() > 0 && part.first() == next);
            let one = encode(block.index(next)..block.index(part.last().unwrap().next()));
            prop_assert!(part.as_slice().len() <= bytes || !way || part.events() == 1);
            prop_assert_eq!(part.as_slice(), one.as_slice());
            prop_assert_eq!(part.last().unwrap(), next.plus(part.events()).previous());
            whole.extend_from_slice(part.as_slice());
            next = part.last().unwrap().next();
        }
        prop_assert_eq!(whole, piece.as_slice());
        prop_assert_eq!(next, block.next());
    }
}

fn frames(bytes: &[u8]) -> Vec<(u64, Vec<String>)> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let mut runs = Vec::new();
    while let Some(frame) = decoder.next().unwrap() {
        let Frame::Run(run) = frame else { panic!("{frame:?}") };
        let ids: Vec<String> = proto::batch(&run.body)
            .map(|event| proto::decode(event.unwrap()).unwrap().id().to_owned())
            .collect();
        assert_eq!(run.count as usize, ids.len());
        assert_eq!(run.history, History(8), "the present history, not that of the time of writing");
        runs.push((run.first.0, ids));
    }
    runs
}

#[test]
fn frames_hold_the_stored_events_and_only_the_chosen_ones() {
    // Positions 8 and 9 were appended at one time, 10 to 13 at another: two frames.
    let block = Block::new(
        Vec::new(),
        History(8),
        vec![run(8, &[3]), run(9, &[4]), run(10, &[1, 2, 3, 4])],
        Position(8),
    );
    let rules = Rules::default();
    let whole = block.choose(&rules).stream(&block, &rules, "s", 0..6);
    let ids = |positions: &[u64]| positions.iter().map(|at| format!("e{at}")).collect::<Vec<_>>();
    assert_eq!(frames(whole.as_slice()), [(8, ids(&[8, 9])), (10, ids(&[10, 11, 12, 13]))]);
    assert_eq!((whole.events(), whole.last()), (6, Some(Position(13))));

    let part = block.choose(&rules).stream(&block, &rules, "s", 1..4);
    assert_eq!(frames(part.as_slice()), [(9, ids(&[9])), (10, ids(&[10, 11]))]);

    let even = Rules::test(Filters::sql("subject = 'even'").unwrap());
    let chosen = block.choose(&even);
    assert_eq!(chosen.len(&block), 3);
    let some = chosen.stream(&block, &even, "s", 0..3);
    assert_eq!(frames(some.as_slice()), [(8, ids(&[8])), (10, ids(&[10])), (12, ids(&[12]))]);
    assert!(Arc::ptr_eq(&chosen, &block.choose(&even.clone())), "equal rules choose once");
    assert_eq!(chosen.number(block.index(Position(11))), 2);
}

#[test]
fn long_runs_leave_in_frames_of_bounded_size() {
    let block = Block::new(Vec::new(), History(8), vec![run(10, &[12_000; 8])], Position(10));
    let rules = Rules::default();
    let piece = block.choose(&rules).stream(&block, &rules, "s", 0..8);
    let frames = frames(piece.as_slice());
    assert_eq!(frames.len(), 4);
    assert_eq!(frames.iter().map(|(_, ids)| ids.len()).sum::<usize>(), 8);
}

#[test]
fn a_server_sent_event_is_an_id_and_one_line_of_json() {
    let block = Block::new(Vec::new(), History(8), vec![run(41, &[0])], Position(41));
    let rules = Rules::default();
    let piece = block.choose(&rules).sse(&block, &rules, 0..1);
    let text = std::str::from_utf8(piece.as_slice()).unwrap();
    let data = text.strip_prefix("id: 41\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
    assert!(!data.contains(['\n', '\r']));
    let event = json::decode(data.as_bytes()).unwrap();
    assert_eq!(event.id(), "e41");
    assert_eq!(event.stamp(), Some(Stamp { position: Position(41), time: Time(4000) }));
}
