//! What acme.example makes of the stream: a live table of wind and temperature per station, or, where there is no
//! terminal, a line for each observation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use serde::Deserialize;

/// The part of an observation that acme wants.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Reading {
    origin: String,
    temp: Option<f64>,
    wind_dir: Option<f64>,
    wind_speed: Option<f64>,
    wind_gust: Option<f64>,
}

/// The latest reading of each station.
pub(super) struct Table {
    stations: BTreeMap<String, (Reading, String)>,
    /// Whether stdout is a terminal to redraw on.
    live: bool,
    /// How many lines the last drawing took.
    drawn: usize,
}

/// No weather station has seen more: what is above is an instrument's error, and taken for what it is.
const WIND_MAX_MPH: f64 = 250.0;

impl Table {
    pub(super) fn new(quiet: bool) -> Self {
        Self { stations: BTreeMap::new(), live: io::stdout().is_terminal() && !quiet, drawn: 0 }
    }

    /// Takes a reading of this hour. Without a terminal, gives the line to print.
    pub(super) fn take(&mut self, reading: Reading, hour: String) -> Option<String> {
        let line = (!self.live).then(|| {
            format!("  {hour}  {:<4}  {:>8}   {}", reading.origin, temperature(&reading), wind(&reading))
        });
        self.stations.insert(reading.origin.clone(), (reading, hour));
        line
    }

    /// Draws the table in place of the one before.
    pub(super) fn draw(&mut self, status: &str) -> io::Result<()> {
        if !self.live || self.stations.is_empty() {
            return Ok(());
        }
        let text = self.text(status);
        let mut out = io::stdout().lock();
        self.erase(&mut out)?;
        out.write_all(text.as_bytes())?;
        self.drawn = text.lines().count();
        out.flush()
    }

    /// Takes the table off the terminal, so that a message can be printed in its place.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        self.erase(&mut out)?;
        self.drawn = 0;
        out.flush()
    }

    /// Leaves the table where it stands: what is printed next comes below it.
    pub(super) fn leave(&mut self) {
        self.drawn = 0;
    }

    /// Moves to where the table began and clears from there on (ECMA-48: CPL, ED).
    fn erase(&self, out: &mut impl Write) -> io::Result<()> {
        if self.drawn > 0 { write!(out, "\x1b[{}F\x1b[J", self.drawn) } else { Ok(()) }
    }

    fn text(&self, status: &str) -> String {
        let mut text = String::from("\n  station  observed (UTC)     temperature   wind\n");
        for (name, (reading, hour)) in &self.stations {
            let _ = writeln!(text, "  {name:<7}  {hour}  {:>11}   {}", temperature(reading), wind(reading));
        }
        let _ = writeln!(text, "\n  {}\n  {status}", self.answer());
        text
    }

    /// The question acme asked the stream for: where is it windiest now?
    pub(super) fn answer(&self) -> String {
        let speed =
            |reading: &Reading| reading.wind_gust.or(reading.wind_speed).filter(|mph| *mph <= WIND_MAX_MPH);
        let windiest = self
            .stations
            .values()
            .filter_map(|(reading, _)| Some((speed(reading)?, &reading.origin)))
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        match windiest {
            Some((mph, origin)) => format!("Windiest now: {origin}, {mph:.0} mph"),
            None => "Windiest now: nothing measured".to_owned(),
        }
    }
}

fn temperature(reading: &Reading) -> String {
    reading.temp.map_or_else(|| "-".into(), |fahrenheit| format!("{fahrenheit:.1} °F"))
}

fn wind(reading: &Reading) -> String {
    let Some(mph) = reading.wind_speed else { return "-".into() };
    if mph > WIND_MAX_MPH {
        return format!("{mph:.0} mph (no anemometer survives that: ignored)");
    }
    let from = reading.wind_dir.map_or("", |degrees| {
        const POINTS: [&str; 8] = ["N", "NE", "E", "SE", "S", "SW", "W", "NW"];
        POINTS.get((degrees / 45.0).round() as usize % 8).copied().unwrap_or_default()
    });
    let gust = reading.wind_gust.map_or_else(String::new, |gust| format!(", gusts {gust:.0}"));
    format!("{mph:>4.0} mph {from:<2} {}{gust}", "▪".repeat((mph / 4.0).ceil() as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(origin: &str, wind: f64) -> Reading {
        Reading {
            origin: origin.into(),
            temp: Some(39.02),
            wind_dir: Some(350.0),
            wind_speed: Some(wind),
            wind_gust: None,
        }
    }

    #[test]
    fn the_question_is_answered_from_what_can_be_true() {
        let mut table = Table::new(true);
        let line = table.take(reading("JFK", 12.6), "2013-01-01 06:00".into()).unwrap();
        assert_eq!(line, "  2013-01-01 06:00  JFK    39.0 °F     13 mph N  ▪▪▪▪");
        table.take(reading("EWR", 1048.36), "2013-02-12 08:00".into());
        assert_eq!(table.answer(), "Windiest now: JFK, 13 mph");
        assert!(table.text("status").contains("ignored"));
    }
}
