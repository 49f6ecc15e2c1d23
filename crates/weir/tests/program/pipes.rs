//! `publish` and `subscribe` as ends of a pipe, and nodes that go away meanwhile.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use super::harness::{Lines, Node, events, expect, id, run, stderr, stdout, terminate, wait_until};

fn ids(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| id(line)).collect()
}

fn numbers(first: u64, count: u64) -> Vec<String> {
    (first..first + count).map(|number| number.to_string()).collect()
}

#[test]
fn what_is_published_comes_out_with_its_place() {
    let node = Node::started();
    node.ok(&["stream", "create", "orders"], "");
    let said = node.ok(&["publish", "orders"], &events(1, 2500));
    assert!(said.starts_with("published 2,500 events as 1 to 2500"), "{said}");
    let said = node.ok(&["publish", "orders", "--json"], &events(1, 10));
    let totals: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((totals["stored"].as_u64(), totals["duplicates"].as_u64()), (Some(0), Some(10)));
    let text = node.ok(&["subscribe", "orders", "--from", "earliest", "--no-follow"], "");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(ids(&lines), numbers(1, 2500));
    let last: serde_json::Value = serde_json::from_str(&lines[2499]).unwrap();
    assert_eq!(last["flowposition"], "2500");
    assert_eq!(last["data"]["n"], 2500);
    let text = node.ok(&["subscribe", "orders", "--from", "2499", "--count", "1"], "");
    assert_eq!(id(text.trim()), "2499");
    let text =
        node.ok(&["subscribe", "orders", "--from", "earliest", "--no-follow", "--filter", "id = '7'"], "");
    assert_eq!(id(text.trim()), "7");
    let text = node.ok(&["replay", "orders", "--from", "10", "--to", "12", "--speed", "1000x"], "");
    assert_eq!(text.lines().map(id).collect::<Vec<_>>(), numbers(10, 3));
}

#[test]
fn subscribe_into_publish_is_a_bridge_that_ends_with_its_reader() {
    let node = Node::started();
    for name in ["a", "b"] {
        node.ok(&["stream", "create", name], "");
    }
    node.ok(&["publish", "a"], &events(1, 1000));
    let mut from = node.weir(&["subscribe", "a", "--from", "earliest", "--no-follow"]);
    let mut from = from.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut to = node.weir(&["publish", "b", "-"]);
    let to = to.stdin(from.stdout.take().unwrap()).output().unwrap();
    expect(0, &to);
    assert!(from.wait().unwrap().success());
    assert_eq!(node.json(&["stream", "show", "b"])["last"], 1000);

    // A reader that has had enough ends the program quietly and well.
    let mut following = node.weir(&["subscribe", "a", "--from", "earliest"]);
    let mut following = following.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(following.stdout.take());
    let status = wait_until("the end of the pipe", || following.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn a_killed_node_costs_neither_end_an_event() {
    let mut node = Node::started();
    node.ok(&["stream", "create", "orders"], "");
    let subscriber = Lines::of(&mut node.weir(&["subscribe", "orders", "--from", "earliest"]));
    let mut publisher = node.weir(&["publish", "orders", "--batch", "20"]);
    let mut publisher =
        publisher.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = publisher.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        for batch in 0..150 {
            stdin.write_all(events(batch * 20 + 1, 20).as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let mut seen = Vec::new();
    for round in 0..3 {
        seen.extend(subscriber.take(200));
        if round % 2 == 0 {
            node.kill()
        } else {
            node.stop()
        }
        std::thread::sleep(Duration::from_millis(150));
        node.start();
    }
    feeder.join().unwrap();
    let output = publisher.wait_with_output().unwrap();
    expect(0, &output);
    seen.extend(subscriber.take(3000 - seen.len()));
    assert_eq!(ids(&seen), numbers(1, 3000));
    assert!(subscriber.is_silent_for(Duration::from_millis(300)), "something came twice");
    assert_eq!(node.json(&["stream", "show", "orders"])["last"], 3000);
    terminate(subscriber.child());
}

#[test]
fn exec_gets_each_event_on_stdin_and_a_failure_ends_it() {
    let node = Node::started();
    node.ok(&["stream", "create", "orders"], "");
    node.ok(&["publish", "orders"], &events(1, 5));
    let taken = node.folder().join("taken");
    let command = format!("cat >> '{}'", taken.display());
    node.ok(&["subscribe", "orders", "--from", "earliest", "--no-follow", "--exec", &command], "");
    assert_eq!(std::fs::read_to_string(&taken).unwrap().lines().map(id).collect::<Vec<_>>(), numbers(1, 5));
    let output = run(
        &mut node.weir(&[
            "subscribe",
            "orders",
            "--from",
            "earliest",
            "--no-follow",
            "--exec",
            "! grep -q '\"n\":3'",
        ]),
        "",
    );
    expect(1, &output);
    assert!(stderr(&output).contains("position 3"), "{}", stderr(&output));
}

#[test]
fn csv_and_plain_json_are_published_as_they_say() {
    let node = Node::started();
    node.ok(&["stream", "create", "rows"], "");
    let file = node.folder().join("rows.csv");
    std::fs::write(
        &file,
        "no,when,text\n1,2026-01-01T00:00:00Z,\"a, \"\"b\"\"\"\n2,2026-01-02T00:00:00Z,c\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let publish = [
        "publish",
        "rows",
        file,
        "--type",
        "row",
        "--source",
        "/csv",
        "--id-field",
        "no",
        "--time-field",
        "when",
    ];
    node.ok(&publish, "");
    node.ok(&publish, "");
    let text = node.ok(&["subscribe", "rows", "--from", "earliest", "--no-follow"], "");
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2, "the second run stores nothing twice");
    assert_eq!(rows[0]["data"]["text"], "a, \"b\"");
    assert_eq!(rows[1]["time"], "2026-01-02T00:00:00Z");
    let output = run(&mut node.weir(&["publish", "rows"]), "{\"n\":1}\n");
    expect(2, &output);
    assert!(stderr(&output).contains("--type and --source"), "{}", stderr(&output));
    assert!(stdout(&output).is_empty());
}
