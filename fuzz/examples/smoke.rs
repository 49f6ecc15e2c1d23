//! The fuzz targets on stable Rust, without a fuzzer: for each a bounded number of seeded mutations of its seeds.
//!
//! The same seed gives the same inputs. A target that accepts none of its inputs is a failure too: then it
//! tests nothing. What breaks a promise is kept in `fuzz/failed/`, named after target and number, and can be tried
//! again by giving the file's name.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weir_fuzz::{TARGETS, Target};

const USAGE: &str =
    "usage: fuzz/smoke [--count N] [--seed N] [--only TARGET] [--seeds FOLDER] [--try TARGET FILE]
  --count N        inputs for each target (default 100000)
  --seed N         where the random numbers start (default 1)
  --only TARGET    one target only
  --seeds FOLDER   write the seeds into FOLDER/TARGET, to start cargo-fuzz from, and end
  --try TARGET FILE   try one input, and end";

/// No input here may take longer; all are small.
const TIME_MAX: Duration = Duration::from_secs(5);
const BYTES_MAX: usize = 4096;

struct Options {
    count: u64,
    seed: u64,
    only: Option<String>,
}

fn main() -> ExitCode {
    let mut options = Options { count: 100_000, seed: 1, only: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut next = || arguments.next();
        let done = match argument.as_str() {
            "--count" => next().and_then(|n| n.parse().ok()).map(|n| options.count = n).is_some(),
            "--seed" => next().and_then(|n| n.parse().ok()).map(|n| options.seed = n).is_some(),
            "--only" => next().map(|name| options.only = Some(name)).is_some(),
            "--seeds" => match next() {
                Some(folder) => return write_seeds(Path::new(&folder)),
                None => false,
            },
            "--try" => match (next(), next()) {
                (Some(name), Some(file)) => return try_file(&name, Path::new(&file)),
                _ => false,
            },
            _ => false,
        };
        if !done {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    let mut good = true;
    let chosen = TARGETS.iter().filter(|target| options.only.as_ref().is_none_or(|only| only == target.name));
    let mut chosen = chosen.peekable();
    if chosen.peek().is_none() {
        eprintln!("there is no such target; there are {:?}", TARGETS.map(|target| target.name));
        return ExitCode::from(2);
    }
    for target in chosen {
        good &= smoke(target, &options);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one target. Whether every promise held.
fn smoke(target: &Target, options: &Options) -> bool {
    let seeds = (target.seeds)();
    let mut random = Random(options.seed);
    let (began, mut accepted) = (Instant::now(), 0_u64);
    for number in 0..options.count {
        // The seeds themselves come first.
        let input = match usize::try_from(number).ok().and_then(|number| seeds.get(number)) {
            Some(seed) => seed.clone(),
            None => mutate(&seeds, target.tokens, &mut random),
        };
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        let slow = started.elapsed() > TIME_MAX;
        if let (Ok(ok), false) = (&result, slow) {
            accepted += u64::from(*ok);
            continue;
        }
        let file = Path::new("failed").join(format!("{}-{}-{number}", target.name, options.seed));
        let kept = std::fs::create_dir_all("failed").and_then(|()| std::fs::write(&file, &input));
        let what = if slow { "took too long" } else { "broke a promise" };
        eprintln!("{}: input {number} {what}: {}", target.name, input.escape_ascii());
        match kept {
            Ok(()) => eprintln!("again: fuzz/smoke --try {} {}", target.name, file.display()),
            Err(error) => eprintln!("not kept: {error}"),
        }
        return false;
    }
    println!(
        "{:<12} {} inputs, {accepted} accepted, {:.1} s",
        target.name,
        options.count,
        began.elapsed().as_secs_f32()
    );
    if accepted == 0 {
        eprintln!("{}: nothing was accepted, so nothing was tested", target.name);
    }
    accepted > 0
}

fn try_file(name: &str, file: &Path) -> ExitCode {
    let (Some(target), Ok(input)) = (TARGETS.iter().find(|target| target.name == name), std::fs::read(file))
    else {
        eprintln!("no target {name}, or no file {}", file.display());
        return ExitCode::from(2);
    };
    println!("accepted: {}", (target.run)(&input));
    ExitCode::SUCCESS
}

fn write_seeds(folder: &Path) -> ExitCode {
    for target in &TARGETS {
        let folder = folder.join(target.name);
        let written = std::fs::create_dir_all(&folder).and_then(|()| {
            (target.seeds)()
                .iter()
                .enumerate()
                .try_for_each(|(number, seed)| std::fs::write(folder.join(number.to_string()), seed))
        });
        if let Err(error) = written {
            eprintln!("{}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// One of the seeds, changed in one to four places.
fn mutate(seeds: &[Vec<u8>], tokens: &[&str], random: &mut Random) -> Vec<u8> {
    let mut input = random.pick(seeds).clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        let span = span(&input, at, random);
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.drain(span)),
            3 => {
                let copy = input[span].to_vec();
                input.splice(at..at, copy);
            }
            4 => {
                let copy = input[span].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            5 => {
                let token = random.pick(tokens).bytes();
                input.splice(span, token);
            }
            6 => {
                let other = random.pick(seeds);
                let from = random.below(other.len() + 1);
                let piece = self::span(other, from, random);
                input.splice(at..at, other[piece].iter().copied());
            }
            7 => input.truncate(at),
            _ => {
                let token = random.pick(tokens).bytes();
                input.splice(at..at, token);
            }
        }
    }
    input.truncate(BYTES_MAX);
    input
}

/// A short stretch from `at` on; one in eight is long.
fn span(input: &[u8], at: usize, random: &mut Random) -> Range<usize> {
    let most = if random.below(8) == 0 { 200 } else { 8 };
    at..(at + random.below(most)).min(input.len())
}

/// SplitMix64: small, and good enough to choose places.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<'t, T>(&mut self, list: &'t [T]) -> &'t T {
        &list[self.below(list.len())]
    }
}
