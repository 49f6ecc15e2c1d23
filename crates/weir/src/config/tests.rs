use super::*;

fn settings(
    flags: &[(&'static str, &str)],
    environment: &[(&str, &str)],
    file: &str,
) -> Result<Config, Failure> {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), file).unwrap();
    let args = ServeArgs {
        config: Some(path.path().into()),
        given: flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
    };
    args.config_from(environment.iter().map(|(name, value)| (name.into(), value.into())))
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "name = \"file.example\"\ndisk_warn = 70\nlog_format = \"json\"";
    let read = settings(
        &[("name", "flag.example")],
        &[
            ("WEIR_NAME", "env.example"),
            ("WEIR_DISK_WARN", "75%"),
            ("WEIR_TOKEN", "x"),
            ("WEIR_SOMETHING_ELSE", "y"),
        ],
        file,
    )
    .unwrap();
    assert_eq!(
        (read.node.name.as_str(), read.node.disk_warn.0, read.log_format),
        ("flag.example", 75, LogFormat::Json)
    );
}

#[test]
fn what_makes_no_sense_is_refused_with_where_and_what_instead() {
    for (flags, environment, file, says) in [
        (&[][..], &[][..], "lisen = \"x\"", "unknown key lisen; did you mean listen?"),
        (&[], &[], "xyzzy = 1", "docs/configuration.md"),
        (&[], &[], "listen = 80.5", "listen must be an address and port, as 127.0.0.1:8080, not a float"),
        (&[], &[], "listen = ", "is not TOML"),
        (&[], &[("WEIR_LISTN", "x")], "", "unknown variable WEIR_LISTN; did you mean WEIR_LISTEN?"),
        (&[("listen", "8080")], &[], "", "--listen: \"8080\" is not valid"),
        (&[("url", "acme.example")], &[], "", "no base URL"),
        (&[("name", "not a name")], &[], "", "no domain name"),
        (&[("log_format", "xml")], &[], "", "text or json"),
        (&[("disk_warn", "96")], &[], "", "must not exceed disk_stop"),
        (&[("listen", "0.0.0.0:80")], &[], "", "--insecure-plaintext"),
        (
            &[("event_bytes_max", "2MiB"), ("batch_bytes_max", "1MiB")],
            &[],
            "",
            "must not exceed batch_bytes_max",
        ),
    ] {
        let failure = settings(flags, environment, file).unwrap_err();
        assert_eq!(failure.exit as u8, 2);
        assert!(failure.to_string().contains(says), "{says}: {failure}");
    }
    assert!(settings(&[("listen", "0.0.0.0:80"), ("insecure_plaintext", "true")], &[], "").is_ok());
    assert!(settings(&[("listen", "[::ffff:127.0.0.1]:80")], &[], "").is_ok());
}

#[test]
fn the_reference_in_the_docs_is_the_one_of_this_version() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path, reference()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap_or_default(),
        reference(),
        "run with UPDATE_SNAPSHOTS=1 and review the change"
    );
}
