//! The demo, start to end, as the README starts it.

use super::harness::{expect, run, stdout, weir};

#[test]
fn two_organizations_share_real_weather() {
    let output = run(weir().args(["demo", "--for", "8s", "--speed", "7200x"]), "");
    expect(0, &output);
    let told = stdout(&output);
    for step in [
        "offers the stream",
        "acme.example looks for weather and finds weather.us.ny",
        "acme.example asks",
        "sees request",
        "weatherflow.example accepts it",
        "acme.example has its grant",
        "2013-01-01 06:00  EWR",
        "The demo has ended",
    ] {
        assert!(told.contains(step), "{step} is missing from\n{told}");
    }
    // The first day at once, then two hours a second.
    let readings = told.lines().filter(|line| line.contains("mph")).count();
    assert!(readings > 72, "{readings} readings\n{told}");
}
