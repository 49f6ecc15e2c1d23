//! The observations that the demo replays: a year of hourly weather at three airports, packed into the program.
//!
//! `tools/extract-weather.py` makes the file and states its coding: CSV, gzip'd, ordered by time and station, a cell
//! left empty where it repeats (the time of the row above; any other value of the same station's row before), `-`
//! for what was not measured.

use std::collections::HashMap;
use std::io::Read;

use serde_json::{Map, Number, Value};
use weir_event::flow::Time;
use weir_event::{Data, Event};

use crate::failure::Failure;

const PACKED: &[u8] = include_bytes!("../../data/weather.csv.gz");

/// Miles per hour in a knot: the unit the source publishes in, and the one observers use.
pub(super) const MPH_PER_KNOT: f64 = 1.15078;

/// The type of the events.
pub(super) const TYPE: &str = "us.weather.observation.v1";
/// The source of the events.
pub(super) const SOURCE: &str = "https://weatherflow.example/asos";

/// One observation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Observation {
    /// When, as text and as a moment.
    pub(super) hour: String,
    /// The same in milliseconds.
    pub(super) millis: u64,
    /// The station.
    pub(super) origin: String,
    /// What was measured, by the column's name; wind in knots.
    values: Vec<(String, Option<String>)>,
}

/// All observations, in order.
pub(super) fn observations() -> Result<Vec<Observation>, Failure> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(PACKED)
        .read_to_string(&mut text)
        .map_err(|error| Failure::failed(format!("unpack the weather: {error}")))?;
    parse(&text).ok_or_else(|| Failure::failed("the packed weather is damaged"))
}

fn parse(text: &str) -> Option<Vec<Observation>> {
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next()?.split(',').skip(2).collect();
    let mut observations = Vec::with_capacity(27_000);
    let mut hour = "";
    let mut last: HashMap<&str, Vec<&str>> = HashMap::new();
    for line in lines {
        let mut cells = line.split(',');
        let (time, origin) = (cells.next()?, cells.next()?);
        if !time.is_empty() {
            hour = time;
        }
        let values = last.entry(origin).or_insert_with(|| vec!["-"; columns.len()]);
        for (value, cell) in values.iter_mut().zip(cells) {
            if !cell.is_empty() {
                *value = cell;
            }
        }
        let named = columns.iter().zip(values.iter());
        observations.push(Observation {
            hour: hour.to_owned(),
            millis: hour.parse::<Time>().ok()?.0,
            origin: origin.to_owned(),
            values: named.map(|(name, value)| ((*name).to_owned(), measured(value))).collect(),
        });
    }
    Some(observations)
}

fn measured(cell: &str) -> Option<String> {
    (cell != "-").then(|| cell.to_owned())
}

impl Observation {
    /// The event that weatherflow.example publishes of it: wind in mph, as the source has it; null where nothing
    /// was measured.
    pub(super) fn event(&self) -> Result<Event<'static>, weir_event::Error> {
        let mut data = Map::new();
        data.insert("origin".into(), self.origin.as_str().into());
        for (name, value) in &self.values {
            data.insert(name.clone(), value.as_deref().map_or(Value::Null, |value| number(name, value)));
        }
        let mut event = Event::new(format!("{}-{}", self.origin, self.hour), SOURCE, TYPE)?;
        event.set("subject", self.origin.clone())?;
        if let Some(time) = weir_event::Timestamp::parse(self.hour.clone()) {
            event.set("time", time)?;
        }
        event.set("datacontenttype", "application/json")?;
        event.set_data(Some(Data::text(Value::Object(data).to_string())));
        Ok(event)
    }
}

fn number(column: &str, text: &str) -> Value {
    let Ok(value) = text.parse::<f64>() else { return Value::Null };
    // Rounded to what a float's product of the two is sure of.
    let value = if column.starts_with("wind_s") || column.starts_with("wind_g") {
        (value * MPH_PER_KNOT * 1e5).round() / 1e5
    } else {
        value
    };
    if value.fract() == 0.0 && value.abs() < 1e9 {
        Value::from(value as i64)
    } else {
        Number::from_f64(value).map_or(Value::Null, Value::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_year_unpacks_as_the_source_has_it() {
        let all = observations().unwrap();
        assert_eq!(all.len(), 26_115);
        assert!(all.windows(2).all(|pair| pair[0].millis <= pair[1].millis));
        let first = all[0].event().unwrap();
        assert_eq!(first.id(), "EWR-2013-01-01T06:00:00Z");
        assert_eq!(
            std::str::from_utf8(&first.data().unwrap().bytes).unwrap(),
            r#"{"origin":"EWR","temp":39.02,"dewp":26.06,"humid":59.37,"wind_dir":270,"wind_speed":10.35702,"wind_gust":null,"precip":0,"pressure":1012,"visib":10}"#
        );
        // The sum over the source's column, to the digits that rounding leaves.
        let sum: f64 = all
            .iter()
            .filter_map(|observation| {
                let data: Value =
                    serde_json::from_slice(&observation.event().unwrap().data().unwrap().bytes).unwrap();
                data["wind_speed"].as_f64()
            })
            .sum();
        assert!((sum - SUM_OF_WIND_SPEED).abs() < 0.01, "{sum}");
    }

    const SUM_OF_WIND_SPEED: f64 = 274622.139;
}
