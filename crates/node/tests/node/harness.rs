//! A node on a free port and a temporary directory, and plain sockets to talk to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{io, thread};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use weir_log::disk::real::Real;
use weir_log::disk::{Disk, File, Space, Why};
use weir_log::engine::Engine;
use weir_node::clock::{SystemClock, SystemEntropy};
use weir_node::control::{Control, Options};
use weir_node::settings::Settings;
use weir_node::{Node, Parts};

/// Longer than anything a test waits for takes, however busy the machine is.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A running node.
pub(crate) struct TestNode {
    pub(crate) node: Arc<Node>,
    pub(crate) address: SocketAddr,
    /// Its disk's syncs.
    pub(crate) syncs: Arc<Syncs>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    dir: Option<TempDir>,
}

impl TestNode {
    /// A node without tokens, so that every caller is its owner.
    pub(crate) async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub(crate) async fn start_with(settings: Settings) -> Self {
        Self::start_in(TempDir::new().unwrap(), settings).await
    }

    /// Stops it and starts another on what it left.
    pub(crate) async fn restart(mut self) -> Self {
        let settings = self.node.settings().clone();
        let dir = self.dir.take().unwrap();
        self.stop().await;
        drop(self);
        Self::start_in(dir, settings).await
    }

    async fn start_in(dir: TempDir, settings: Settings) -> Self {
        let syncs = Arc::new(Syncs::default());
        let disk = HeldDisk { real: Real::new(dir.path()).unwrap(), syncs: Arc::clone(&syncs) };
        let options = weir_log::Options { reserve_bytes: 0, ..weir_log::Options::default() };
        let log = open(disk, options).await;
        let control = Options {
            dir: dir.path().to_owned(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            open_without_tokens: true,
        };
        let control = Control::open(Arc::clone(&log), control).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let parts = Parts {
            settings,
            log,
            engine: None,
            control,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        };
        let node = Node::new(parts).unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = {
            let node = Arc::clone(&node);
            tokio::spawn(async move {
                node.serve(listener, async {
                    let _ = stopped.await;
                })
                .await;
            })
        };
        Self { node, address, syncs, stop: Some(stop), serving: Some(serving), dir: Some(dir) }
    }

    /// Stops it and waits until it has.
    pub(crate) async fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(SOON, self.serving.take().unwrap()).await.unwrap().unwrap();
    }

    /// Makes a stream.
    pub(crate) async fn stream(&self, name: &str, descriptor: Value) {
        let answer = self
            .send(
                "PUT",
                &format!("/streams/{name}"),
                &[("content-type", "application/json")],
                descriptor.to_string(),
            )
            .await;
        assert!(answer.status == 200 || answer.status == 201, "{answer:?}");
    }

    /// Makes a stream that is acknowledged without a sync.
    pub(crate) async fn written(&self, name: &str) {
        self.stream(name, json!({"durability": "written"})).await;
    }

    /// Publishes events with these ids, whose data is their number.
    pub(crate) async fn publish(&self, stream: &str, ids: impl IntoIterator<Item = u64>) -> Answer {
        let events: Vec<Value> = ids.into_iter().map(|id| event(id, json!({"n": id}))).collect();
        self.publish_all(stream, &events).await
    }

    pub(crate) async fn publish_all(&self, stream: &str, events: &[Value]) -> Answer {
        let content_type = ("content-type", "application/cloudevents-batch+json");
        self.send(
            "POST",
            &format!("/streams/{stream}/events"),
            &[content_type],
            Value::from(events.to_vec()).to_string(),
        )
        .await
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, "").await
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        let request = self.request(method, path, headers, body.as_ref());
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut all = Vec::new();
        tokio::time::timeout(SOON, stream.read_to_end(&mut all)).await.expect("an answer").unwrap();
        Answer::of(&all)
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("content-length: {}\r\n", body.len());
        }
        let mut request = (head + "\r\n").into_bytes();
        request.extend_from_slice(body);
        request
    }

    /// Opens a push channel and reads its head.
    pub(crate) async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Push {
        let request = self.request("GET", path, headers, b"");
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut push = Push { stream, buffer: Vec::new(), raw: None };
        let end = push.find(b"\r\n\r\n").await.expect("a head");
        let head: Vec<u8> = push.buffer.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head} {}", String::from_utf8_lossy(&push.buffer));
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        push.raw = Some(std::mem::take(&mut push.buffer));
        push.unchunk();
        push
    }

    /// Opens server-sent events.
    pub(crate) async fn sse(&self, path: &str, headers: &[(&str, &str)]) -> Push {
        self.open(path, &[headers, &[("accept", "text/event-stream")]].concat()).await
    }
}

async fn open(disk: HeldDisk, options: weir_log::Options) -> Arc<dyn weir_log::Log> {
    let disk: Arc<dyn Disk> = Arc::new(disk);
    // The lock of a node that was just stopped may take a moment to go.
    for _ in 0..200 {
        match Engine::open_on(Arc::clone(&disk), weir_log::SystemClock::shared(), options) {
            Ok(engine) => return Arc::new(engine),
            Err(error) if error.kind() == weir_log::Kind::Unavailable => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the log stays locked");
}

/// An event as JSON.
pub(crate) fn event(id: u64, data: Value) -> Value {
    json!({
        "specversion": "1.0", "id": id.to_string(), "source": "/test", "type": "test.counted",
        "subject": if id.is_multiple_of(2) { "even" } else { "odd" },
        "datacontenttype": "application/json", "data": data,
    })
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn of(all: &[u8]) -> Self {
        let end = all
            .windows(4)
            .position(|at| at == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no head in {} bytes", all.len()));
        let head = std::str::from_utf8(&all[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let answer = Self { status, headers, body: all[end + 4..].to_vec() };
        assert!(answer.header("transfer-encoding").is_none(), "answers have a length: {answer:?}");
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The problem's name, asserting the status.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()["type"].as_str().unwrap().strip_prefix("urn:weir:error:").unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(matches!(self.status, 200..=202), "{} {}", self.status, String::from_utf8_lossy(&self.body));
        self.json()
    }
}

/// A push channel.
pub(crate) struct Push {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Vec<u8>,
    /// What arrived and is no whole chunk yet; `None` before the head is read.
    raw: Option<Vec<u8>>,
}

/// One server-sent message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) event: String,
    pub(crate) id: Option<u64>,
    pub(crate) data: Value,
}

impl Push {
    /// Where `mark` begins, reading until it is there; `None` at the end.
    async fn find(&mut self, mark: &[u8]) -> Option<usize> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|found| found == mark) {
                return Some(at);
            }
            if self.more().await? == 0 {
                return None;
            }
        }
    }

    /// Reads what has arrived; `Some(0)` at an orderly end, `None` after a reset.
    pub(crate) async fn more(&mut self) -> Option<usize> {
        let to = self.raw.as_mut().unwrap_or(&mut self.buffer);
        let read = tokio::time::timeout(SOON, self.stream.read_buf(to));
        match read.await.expect("something within time") {
            Ok(count) => {
                self.unchunk();
                Some(count)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Takes whole chunks out of what arrived.
    fn unchunk(&mut self) {
        let Some(raw) = &mut self.raw else { return };
        while let Some(line) = raw.windows(2).position(|found| found == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&raw[..line]).unwrap(), 16).unwrap();
            let end = line + 2 + size;
            if raw.len() < end + 2 {
                return;
            }
            assert_eq!(&raw[end..end + 2], b"\r\n");
            self.buffer.extend_from_slice(&raw[line + 2..end]);
            raw.drain(..end + 2);
        }
    }

    /// The next message; `None` at the end.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        let end = self.find(b"\n\n").await?;
        let text: Vec<u8> = self.buffer.drain(..end + 2).collect();
        let mut message = Message { event: "message".to_owned(), id: None, data: Value::Null };
        for line in std::str::from_utf8(&text).unwrap().lines().filter(|line| !line.is_empty()) {
            match line.split_once(": ").unwrap() {
                ("event", event) => message.event = event.to_owned(),
                ("id", id) => message.id = Some(id.parse().unwrap()),
                ("data", data) => message.data = serde_json::from_str(data).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        Some(message)
    }

    /// The next message that is no heartbeat.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            match self.message().await? {
                heartbeat if heartbeat.event == "heartbeat" => {}
                message => return Some(message),
            }
        }
    }

    /// The ids of the next `count` events.
    pub(crate) async fn ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let message = self.next().await.expect("an event");
            assert_eq!(message.event, "message", "{message:?}");
            assert_eq!(message.data["flowposition"], message.id.unwrap().to_string());
            ids.push(message.data["id"].as_str().unwrap().parse().unwrap());
        }
        ids
    }

    /// Nothing but heartbeats comes for a while.
    pub(crate) async fn quiet(&mut self, time: Duration) {
        if let Ok(message) = tokio::time::timeout(time, self.next()).await {
            panic!("{message:?}");
        }
    }
}

/// Whether a disk's syncs go through.
#[derive(Default)]
pub(crate) struct Syncs {
    held: AtomicBool,
    fail: AtomicBool,
    waiting: AtomicU64,
    done: AtomicU64,
}

impl Syncs {
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Lets them go on, to succeed or to fail.
    pub(crate) fn release(&self, fail: bool) {
        self.fail.store(fail, Ordering::SeqCst);
        self.held.store(false, Ordering::SeqCst);
    }

    /// How many syncs wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    fn pass(&self) -> io::Result<()> {
        self.done.fetch_add(1, Ordering::SeqCst);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while self.held.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.fail.load(Ordering::SeqCst) {
            Err(io::Error::other("the sync fails on purpose"))
        } else {
            Ok(())
        }
    }
}

/// A real disk whose syncs can be held back.
struct HeldDisk {
    real: Real,
    syncs: Arc<Syncs>,
}

struct HeldFile {
    real: Arc<dyn File>,
    syncs: Arc<Syncs>,
}

impl HeldDisk {
    fn file(&self, real: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(HeldFile { real, syncs: Arc::clone(&self.syncs) })
    }
}

impl Disk for HeldDisk {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.real.create_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.real.list(path)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.real.open(path)?))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.real.create(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.real.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.real.remove(path)
    }

    fn sync_dir(&self, path: &str, why: Why) -> io::Result<()> {
        self.real.sync_dir(path, why)
    }

    fn space(&self) -> io::Result<Space> {
        self.real.space()
    }

    fn boot_id(&self) -> u128 {
        self.real.boot_id()
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>> {
        self.real.lock(path)
    }
}

impl File for HeldFile {
    fn path(&self) -> &str {
        self.real.path()
    }

    fn len(&self) -> io::Result<u64> {
        self.real.len()
    }

    fn read_at(&self, into: &mut Vec<u8>, count: usize, offset: u64) -> io::Result<()> {
        self.real.read_at(into, count, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.real.write_at(bytes, offset)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.real.allocate(length)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.real.truncate(length)
    }

    fn sync(&self, why: Why) -> io::Result<()> {
        self.syncs.pass()?;
        self.real.sync(why)
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Resident memory of this process.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
