//! Asking, deciding, receiving and ending, between an owner and somebody who has no account.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::harness::{Lines, Node, events, expect, id, run, stderr, stdout, wait_until, weir};

/// A node with an owner's token, and a stream that has to be asked for.
fn guarded() -> (Node, String) {
    let mut node = Node::stopped();
    let output = run(
        weir().args(["keys", "token", "create", "--role", "owner", "--quiet", "--data"]).arg(node.data()),
        "",
    );
    expect(0, &output);
    node.start();
    let token = stdout(&output).trim().to_owned();
    owner(&node, &token, &["stream", "create", "orders", "--access", "approval", "--title", "Orders"], "");
    owner(&node, &token, &["publish", "orders"], &events(1, 10));
    (node, token)
}

#[track_caller]
fn owner(node: &Node, token: &str, arguments: &[&str], input: &str) -> String {
    let output = run(node.weir(arguments).env("WEIR_TOKEN", token), input);
    expect(0, &output);
    stdout(&output)
}

#[track_caller]
fn only_request(node: &Node, token: &str) -> String {
    wait_until("a request", || {
        let text = owner(node, token, &["requests", "list", "--json"], "");
        let list: Value = serde_json::from_str(&text).unwrap();
        Some(list.as_array().unwrap().first()?["id"].as_str().unwrap().to_owned())
    })
}

#[test]
fn a_stranger_asks_is_accepted_receives_goes_on_and_is_revoked() {
    let (node, token) = guarded();
    let profile = node.folder().join("orders.json");
    let profile = profile.to_str().unwrap();
    let uri = format!("{}/streams/orders", node.url);
    let subscribe = [
        "subscribe",
        &uri,
        "--from",
        "earliest",
        "--contact",
        "dev@acme.example",
        "--note",
        "why",
        "--profile",
        profile,
    ];

    // Told not to wait it asks, and the same command later finds the same request.
    for _ in 0..2 {
        let output = run(&mut node.weir(&[&subscribe[..], &["--no-wait"]].concat()), "");
        expect(0, &output);
        assert!(stderr(&output).contains("not decided yet"), "{}", stderr(&output));
    }
    let request = only_request(&node, &token);
    let shown = owner(&node, &token, &["requests", "show", &request, "--preview", "--limit", "3"], "");
    assert!(shown.contains("dev@acme.example") && shown.contains("why"), "{shown}");
    assert_eq!(shown.lines().filter(|line| line.contains("\"specversion\"")).count(), 3, "{shown}");

    let mut receiving = Lines::of(&mut node.weir(&subscribe));
    assert!(receiving.is_silent_for(Duration::from_millis(300)));
    owner(&node, &token, &["requests", "accept", &request, "--expires", "1d", "--reason", "welcome"], "");
    assert_eq!(receiving.take(10).iter().map(|line| id(line)).next_back().unwrap(), "10");
    owner(&node, &token, &["publish", "orders"], &events(11, 1));
    assert_eq!(id(&receiving.take(1)[0]), "11");
    super::harness::terminate(receiving.child());
    assert_eq!(receiving.ended(), 0);

    // The next run goes on behind what the last one wrote.
    owner(&node, &token, &["publish", "orders"], &events(12, 1));
    let mut again = Lines::of(&mut node.weir(&["subscribe", "--profile", profile]));
    assert_eq!(id(&again.take(1)[0]), "12");

    owner(&node, &token, &["requests", "revoke", &request, "--reason", "over"], "");
    assert_eq!(again.ended(), 3);
    let output = run(&mut node.weir(&["subscribe", "--profile", profile]), "");
    expect(3, &output);
}

#[test]
fn a_rejected_request_ends_with_the_reason_and_exit_code_3() {
    let (node, token) = guarded();
    let mut asking = node.weir(&["subscribe", "orders", "--contact", "dev@acme.example"]);
    let asking = asking.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let request = only_request(&node, &token);
    owner(&node, &token, &["requests", "reject", &request, "--reason", "not for sale"], "");
    let output = asking.wait_with_output().unwrap();
    expect(3, &output);
    assert!(stderr(&output).contains("not for sale"), "{}", stderr(&output));
}

#[test]
fn without_a_token_nothing_is_decided_and_exit_codes_say_why() {
    let (node, token) = guarded();
    for arguments in [&["stream", "create", "x"][..], &["publish", "orders"], &["keys", "token", "list"]] {
        let output = run(&mut node.weir(arguments), &events(1, 1));
        expect(3, &output);
        assert!(stderr(&output).contains("token"), "{}", stderr(&output));
    }
    expect(1, &run(node.weir(&["stream", "show", "nothing"]).env("WEIR_TOKEN", &token), ""));
    expect(4, &run(node.weir(&["stream", "list"]).env("WEIR_NODE", "http://127.0.0.1:9"), ""));
    let output = run(&mut node.weir(&["stream", "show", "nothing", "--json"]), "");
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(error["error"]["exit"], i64::from(output.status.code().unwrap()));
}

#[test]
fn tokens_are_made_listed_and_ended_on_a_running_node() {
    let (node, token) = guarded();
    let made = owner(
        &node,
        &token,
        &["keys", "token", "create", "--role", "publisher", "--streams", "orders", "--json"],
        "",
    );
    let made: Value = serde_json::from_str(&made).unwrap();
    let publisher = made["token"].as_str().unwrap();
    owner(&node, publisher, &["publish", "orders"], &events(50, 1));
    assert_eq!(owner(&node, &token, &["keys", "token", "list"], "").lines().count(), 3);
    owner(&node, &token, &["keys", "token", "revoke", made["id"].as_str().unwrap()], "");
    expect(3, &run(node.weir(&["publish", "orders"]).env("WEIR_TOKEN", publisher), &events(51, 1)));
}

#[test]
fn profiles_become_code_that_receives() {
    let (node, token) = guarded();
    let profile = node.folder().join("orders.json");
    let profile = profile.to_str().unwrap();
    let subscribe =
        ["subscribe", "orders", "--from", "earliest", "--contact", "a@b.example", "--profile", profile];
    let receiving = Lines::of(&mut node.weir(&subscribe));
    let request = only_request(&node, &token);
    owner(&node, &token, &["requests", "accept", &request], "");
    receiving.take(10);
    drop(receiving);
    for client in ["python", "javascript", "weir", "curl"] {
        assert!(!node.ok(&["profile", profile, "--for", client], "").is_empty());
    }
}
