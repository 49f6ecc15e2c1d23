//! A node to play with, and ways to run the program.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program, without anything in its environment that would configure it.
pub(crate) fn weir() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEIR_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end with this input.
pub(crate) fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("weir starts");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that does not read all of it is none of our business here.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let (sender, output) = std::sync::mpsc::channel();
    let id = child.id().to_string();
    std::thread::spawn(move || drop(sender.send(child.wait_with_output())));
    let output = output.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| {
        let _ = Command::new("kill").args(["-KILL", &id]).status();
        panic!("{command:?} did not end");
    });
    writer.join().unwrap();
    output.unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Fails with what the program said unless it ended with this code.
#[track_caller]
pub(crate) fn expect(code: i32, output: &Output) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(output), stderr(output));
}

/// The first true answer, within half a minute.
#[track_caller]
pub(crate) fn wait_until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One node in a process of its own; its address stays over restarts.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    pub(crate) url: String,
    address: String,
    process: Option<Child>,
}

impl Node {
    /// A node that is not running yet.
    pub(crate) fn stopped() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Free a moment ago, and nobody else is told of it.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        Self { folder, url: format!("http://{address}"), address, process: None }
    }

    pub(crate) fn started() -> Self {
        let mut node = Self::stopped();
        node.start();
        node
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn start(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut child = weir()
            .args(["serve", "--listen", &self.address, "--log-format", "json", "--data"])
            .arg(self.data())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the node starts");
        let address = self.address.clone();
        let folder = self.folder.path().to_owned();
        wait_until("the node to listen", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!(
                    "the node ended with {status}: {}",
                    std::fs::read_to_string(folder.join("log")).unwrap()
                );
            }
            std::net::TcpStream::connect(&address).ok()
        });
        self.process = Some(child);
    }

    /// As a power cut would, as far as a process can tell.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM: must drain and end well.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            terminate(&process);
            let status = wait_until("the node to stop", || process.try_wait().unwrap());
            assert!(status.success(), "{status}");
        }
    }

    /// The program, pointed at this node.
    pub(crate) fn weir(&self, arguments: &[&str]) -> Command {
        let mut command = weir();
        command.args(arguments).env("WEIR_NODE", &self.url).env("XDG_STATE_HOME", self.folder.path());
        command
    }

    /// Runs the program against this node; must end well. Gives stdout.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str], input: &str) -> String {
        let output = run(&mut self.weir(arguments), input);
        expect(0, &output);
        stdout(&output)
    }

    /// The same with `--json`.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat(), "");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks a process to end.
pub(crate) fn terminate(process: &Child) {
    let id = process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
}

/// A process whose stdout is read line by line, and which ends with the test.
pub(crate) struct Lines {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Lines {
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// So many lines, in order.
    #[track_caller]
    pub(crate) fn take(&self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => taken.push(line),
                Err(error) => panic!("{error} after {} of {count} lines", taken.len()),
            }
        }
        taken
    }

    /// Whether nothing comes within this time.
    pub(crate) fn is_silent_for(&self, time: Duration) -> bool {
        self.lines.recv_timeout(time).is_err()
    }

    /// The exit code, once it has ended.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> i32 {
        wait_until("the program to end", || self.child.try_wait().unwrap()).code().expect("an exit code")
    }

    pub(crate) fn child(&self) -> &Child {
        &self.child
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `count` CloudEvents, one a line, with the ids `first` and so on.
pub(crate) fn events(first: u64, count: u64) -> String {
    (first..first + count)
        .map(|id| {
            format!("{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/s\",\"type\":\"t\",\"data\":{{\"n\":{id}}}}}\n")
        })
        .collect()
}

/// The id of the event on a line.
pub(crate) fn id(line: &str) -> String {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    event["id"].as_str().unwrap().to_owned()
}
