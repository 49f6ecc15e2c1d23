//! A disk for tests that is as bad as a disk may be.
//!
//! [`Sim`] is a machine. What is written lies in its memory; what is synced lies on its disk. A [power
//! cut](Sim::power_cut) keeps what was synced and, of everything else, a seeded random choice: of each unsynced
//! 512-byte sector either version, of each file either length, of the changes to directories any subset. A
//! [kill](Sim::kill) ends the process only: its memory stays. Either way what the old process holds open is dead.
//!
//! Faults are given for the n-th operation that changes something ([`Sim::fail_at`]): it is lost, or done but
//! reported as failed; the process may end with it. A sync that failed leaves the memory as it is and forgets that
//! it was dirty, as Linux does: reading it back proves nothing, and syncing again does not save it. One kind of
//! sync can be [left out](Sim::leave_out), syncs of groups can be [held](Sim::hold), and room can run out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use weir_event::flow::Time;

use super::{Disk, File, Space, Why};
use crate::options::Clock;

const SECTOR: usize = 512;

/// What happens at an operation that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not done.
    Lost,
    /// It is done, and reported as failed.
    Done,
}

/// A machine with a disk.
pub struct Sim {
    machine: Mutex<Machine>,
    wake: Condvar,
    me: Weak<Sim>,
}

struct Machine {
    files: HashMap<u64, Data>,
    /// Names as a process sees them; `None` is a directory.
    names: BTreeMap<String, Option<u64>>,
    /// Names as they are on the disk.
    durable: BTreeMap<String, Option<u64>>,
    /// Changes to names not yet synced, in order.
    changes: Vec<Change>,
    next_file: u64,
    /// Raised by every kill and power cut: handles of an older one are dead.
    process: u64,
    boot: u128,
    operations: u64,
    fault: Option<(u64, Fault, bool)>,
    left_out: Option<Why>,
    held: bool,
    capacity: u64,
    locked: bool,
}

#[derive(Default)]
struct Data {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone)]
enum Change {
    Add(String, Option<u64>),
    Remove(String),
    Rename(String, String, u64),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, Option<u64>>) {
        match self {
            Self::Add(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), Some(*file));
            }
        }
    }

    fn directory(&self) -> &str {
        let (Self::Add(name, _) | Self::Remove(name) | Self::Rename(_, name, _)) = self;
        parent(name)
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// A small generator of pseudo-random numbers (`SplitMix64`): the same seed, the same numbers.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n.max(1)
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl Sim {
    /// A machine with an empty disk.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let machine = Machine {
            files: HashMap::new(),
            names: BTreeMap::from([(String::new(), None)]),
            durable: BTreeMap::from([(String::new(), None)]),
            changes: Vec::new(),
            next_file: 1,
            process: 0,
            boot: 1,
            operations: 0,
            fault: None,
            left_out: None,
            held: false,
            capacity: u64::MAX,
            locked: false,
        };
        Arc::new_cyclic(|me| Self { machine: Mutex::new(machine), wake: Condvar::new(), me: me.clone() })
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as the present process has it.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn Disk> {
        let process = self.machine().process;
        let sim = self.me.upgrade().unwrap_or_else(Self::new);
        Arc::new(Handle { sim, process })
    }

    /// Ends the process. What was written stays readable.
    pub fn kill(&self) {
        let mut machine = self.machine();
        machine.process += 1;
        machine.locked = false;
        machine.held = false;
        machine.fault = None;
        drop(machine);
        self.wake.notify_all();
    }

    /// Ends the process and the machine's memory with it.
    pub fn power_cut(&self, seed: u64) {
        self.kill();
        let mut random = Random(seed);
        let mut machine = self.machine();
        let machine = &mut *machine;
        machine.boot += 1;
        for change in std::mem::take(&mut machine.changes) {
            if random.once_in(2) {
                change.apply(&mut machine.durable);
            }
        }
        machine.names = machine.durable.clone();
        let kept: BTreeSet<u64> = machine.names.values().filter_map(|file| *file).collect();
        machine.files.retain(|file, _| kept.contains(file));
        let mut files: Vec<_> = machine.files.iter_mut().collect();
        files.sort_by_key(|(file, _)| **file);
        for (_, data) in files {
            let longest = data.bytes.len().max(data.durable.len());
            let length = if random.once_in(2) { data.bytes.len() } else { data.durable.len() };
            // Of a sector that was written, the new version or the one on the disk.
            let mut bytes = data.durable.clone();
            bytes.resize(longest, 0);
            for &sector in &data.dirty {
                if random.once_in(2) {
                    let range = sector * SECTOR..((sector + 1) * SECTOR).min(data.bytes.len());
                    if range.start < range.end {
                        bytes[range.clone()].copy_from_slice(&data.bytes[range]);
                    }
                }
            }
            bytes.truncate(length);
            data.dirty.clear();
            data.bytes.clone_from(&bytes);
            data.durable = bytes;
        }
    }

    /// Lets the n-th operation from now on that changes something (1 is the next) fail; `end`: the process ends
    /// with it.
    pub fn fail_at(&self, n: u64, fault: Fault, end: bool) {
        let mut machine = self.machine();
        machine.fault = Some((machine.operations + n, fault, end));
    }

    /// How many operations that change something there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.machine().operations
    }

    /// From now on syncs of this kind do nothing and say that they did.
    pub fn leave_out(&self, why: Option<Why>) {
        self.machine().left_out = why;
    }

    /// Syncs of groups wait from now on.
    pub fn hold(&self) {
        self.machine().held = true;
    }

    /// Syncs of groups go on.
    pub fn release(&self) {
        self.machine().held = false;
        self.wake.notify_all();
    }

    /// Changes how much the disk holds, in bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.machine().capacity = bytes;
    }

    /// How many bytes are taken.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.machine().used()
    }

    /// Paths of all files.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let machine = self.machine();
        machine.names.iter().filter(|(_, file)| file.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// A file's bytes; empty if there is none.
    #[must_use]
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        let machine = self.machine();
        let file = machine.names.get(path).copied().flatten();
        file.and_then(|file| machine.files.get(&file)).map(|data| data.bytes.clone()).unwrap_or_default()
    }

    /// Changes a byte of a file, on the disk and in memory alike.
    pub fn damage(&self, path: &str, offset: usize) {
        let mut machine = self.machine();
        if let Some(Some(file)) = machine.names.get(path).copied()
            && let Some(data) = machine.files.get_mut(&file)
        {
            for bytes in [&mut data.bytes, &mut data.durable] {
                if let Some(byte) = bytes.get_mut(offset) {
                    *byte ^= 0x55;
                }
            }
        }
    }
}

impl Machine {
    fn used(&self) -> u64 {
        let named = self.names.values().filter_map(|file| self.files.get(&(*file)?));
        named.map(|data| data.bytes.len() as u64).sum()
    }

    fn alive(&self, process: u64) -> io::Result<()> {
        if self.process == process { Ok(()) } else { Err(io::Error::other("the process has ended")) }
    }

    /// Counts an operation; what shall happen to it.
    fn step(&mut self, process: u64) -> io::Result<Option<Fault>> {
        self.alive(process)?;
        self.operations += 1;
        match self.fault {
            Some((at, fault, end)) if at == self.operations => {
                self.fault = None;
                if end {
                    // Others see it dead from here on; this operation still has its fate.
                    self.process += 1;
                    self.locked = false;
                }
                Ok(Some(fault))
            }
            _ => Ok(None),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }
}

/// Does `work` unless the fault says that it is lost.
fn faulty<T>(fault: Option<Fault>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match fault {
        None => work(),
        Some(Fault::Lost) => Err(io::Error::other("simulated failure")),
        Some(Fault::Done) => work().and(Err(io::Error::other("simulated failure, done all the same"))),
    }
}

struct Handle {
    sim: Arc<Sim>,
    process: u64,
}

struct Open {
    sim: Arc<Sim>,
    process: u64,
    file: u64,
    path: String,
}

fn missing(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("open {path}: no such file"))
}

impl Disk for Handle {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut machine = self.sim.machine();
        let fault = machine.step(self.process)?;
        faulty(fault, || {
            if !machine.names.contains_key(path) {
                machine.change(Change::Add(path.into(), None));
            }
            Ok(())
        })
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let machine = self.sim.machine();
        machine.alive(self.process)?;
        if !machine.names.contains_key(path) {
            return Err(missing(path));
        }
        let inside = machine.names.keys().filter(|name| !name.is_empty() && parent(name) == path);
        Ok(inside.map(|name| name.rsplit('/').next().unwrap_or_default().to_owned()).collect())
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let machine = self.sim.machine();
        machine.alive(self.process)?;
        let file = machine.names.get(path).copied().flatten().ok_or_else(|| missing(path))?;
        Ok(Arc::new(Open { sim: self.sim.clone(), process: self.process, file, path: path.into() }))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut machine = self.sim.machine();
        if machine.names.contains_key(path) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("create {path}: exists")));
        }
        if !machine.names.contains_key(parent(path)) {
            return Err(missing(path));
        }
        let fault = machine.step(self.process)?;
        let file = machine.next_file;
        faulty(fault, || {
            machine.next_file += 1;
            machine.files.insert(file, Data::default());
            machine.change(Change::Add(path.into(), Some(file)));
            Ok(())
        })?;
        Ok(Arc::new(Open { sim: self.sim.clone(), process: self.process, file, path: path.into() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.sim.machine();
        let fault = machine.step(self.process)?;
        faulty(fault, || {
            let file = machine.names.get(from).copied().flatten().ok_or_else(|| missing(from))?;
            machine.change(Change::Rename(from.into(), to.into(), file));
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut machine = self.sim.machine();
        if machine.names.get(path).copied().flatten().is_none() {
            return Err(missing(path));
        }
        let fault = machine.step(self.process)?;
        faulty(fault, || {
            machine.change(Change::Remove(path.into()));
            Ok(())
        })
    }

    fn sync_dir(&self, path: &str, why: Why) -> io::Result<()> {
        let mut machine = self.sim.machine();
        let fault = machine.step(self.process)?;
        let left_out = machine.left_out == Some(why);
        faulty(fault, || {
            if left_out {
                return Ok(());
            }
            let machine = &mut *machine;
            for change in std::mem::take(&mut machine.changes) {
                if change.directory() == path {
                    change.apply(&mut machine.durable);
                } else {
                    machine.changes.push(change);
                }
            }
            Ok(())
        })
    }

    fn space(&self) -> io::Result<Space> {
        let machine = self.sim.machine();
        Ok(Space { total: machine.capacity, free: machine.capacity.saturating_sub(machine.used()) })
    }

    fn boot_id(&self) -> u128 {
        self.sim.machine().boot
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>> {
        let mut machine = self.sim.machine();
        machine.alive(self.process)?;
        if machine.locked {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("lock {path}: in use by process 1"),
            ));
        }
        machine.locked = true;
        Ok(Box::new(Held(self.sim.clone(), self.process)))
    }
}

struct Held(Arc<Sim>, u64);

impl Drop for Held {
    fn drop(&mut self) {
        let mut machine = self.0.machine();
        if machine.process == self.1 {
            machine.locked = false;
        }
    }
}

impl Open {
    /// Runs a change on the file's data, faults considered.
    fn change(&self, work: impl FnOnce(&mut Data, u64) -> io::Result<()>) -> io::Result<()> {
        let mut machine = self.sim.machine();
        let fault = machine.step(self.process)?;
        let room = machine.capacity.saturating_sub(machine.used());
        let data = machine.files.get_mut(&self.file).ok_or_else(|| missing(&self.path))?;
        faulty(fault, || work(data, room))
    }
}

fn full(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, format!("write {path}: no space left on device"))
}

impl File for Open {
    fn path(&self) -> &str {
        &self.path
    }

    fn len(&self) -> io::Result<u64> {
        let machine = self.sim.machine();
        machine.alive(self.process)?;
        Ok(machine.files.get(&self.file).map_or(0, |data| data.bytes.len() as u64))
    }

    fn read_at(&self, into: &mut Vec<u8>, count: usize, offset: u64) -> io::Result<()> {
        let machine = self.sim.machine();
        machine.alive(self.process)?;
        if let Some(data) = machine.files.get(&self.file) {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.bytes.len());
            into.extend_from_slice(&data.bytes[start..start.saturating_add(count).min(data.bytes.len())]);
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(|data, room| {
            let (start, end) = (offset as usize, offset as usize + bytes.len());
            if end as u64 > data.bytes.len() as u64 + room {
                return Err(full(&self.path));
            }
            if data.bytes.len() < end {
                data.bytes.resize(end, 0);
            }
            data.bytes[start..end].copy_from_slice(bytes);
            if start < end {
                data.dirty.extend(start / SECTOR..=(end - 1) / SECTOR);
            }
            Ok(())
        })
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.change(|data, room| {
            if length > data.bytes.len() as u64 + room {
                return Err(full(&self.path));
            }
            if (data.bytes.len() as u64) < length {
                data.bytes.resize(length as usize, 0);
            }
            Ok(())
        })
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.change(|data, _| {
            data.bytes.truncate(length as usize);
            Ok(())
        })
    }

    fn sync(&self, why: Why) -> io::Result<()> {
        let mut machine = self.sim.machine();
        while machine.held && why == Why::Group && machine.process == self.process {
            machine = self.sim.wake.wait(machine).unwrap_or_else(PoisonError::into_inner);
        }
        let fault = machine.step(self.process)?;
        let left_out = machine.left_out == Some(why);
        let data = machine.files.get_mut(&self.file).ok_or_else(|| missing(&self.path))?;
        if fault == Some(Fault::Lost) {
            // The memory is no longer dirty, and the disk has none of it.
            data.dirty.clear();
        }
        faulty(fault, || {
            if left_out {
                return Ok(());
            }
            data.durable.resize(data.bytes.len(), 0);
            for sector in std::mem::take(&mut data.dirty) {
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(data.bytes.len());
                if range.start < range.end {
                    data.durable[range.clone()].copy_from_slice(&data.bytes[range]);
                }
            }
            Ok(())
        })
    }
}

/// A clock that moves only when told, beside the time that really passes.
pub struct SimClock {
    began: std::time::Instant,
    state: Mutex<(Duration, Random)>,
}

impl SimClock {
    /// A clock whose randomness comes from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { began: std::time::Instant::now(), state: Mutex::new((Duration::ZERO, Random(seed))) })
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 += by;
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        Time(1_700_000_000_000 + self.elapsed().as_millis() as u64)
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed() + self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn random(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.draw()
    }
}
