//! Numbers that must not grow: measured repeatedly while nothing waits, and checked at the end.

use std::fmt;

/// Maximum growth of a number from the first sample to the last, by the line that fits best.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// Growth that is always permitted: noise.
    pub(crate) absolute: f64,
    /// Growth that is permitted as a share of the mean.
    pub(crate) relative: f64,
}

/// One number over time.
#[derive(Debug)]
pub(crate) struct Series {
    name: String,
    limit: Limit,
    values: Vec<f64>,
}

impl Series {
    /// Returns the growth, by least squares.
    fn growth(&self) -> f64 {
        let count = number(self.values.len());
        let (middle, mean) = ((count - 1.0) / 2.0, self.mean());
        let (mut up, mut down) = (0.0, 0.0);
        for (index, value) in self.values.iter().enumerate() {
            let offset = number(index) - middle;
            up += offset * (value - mean);
            down += offset * offset;
        }
        if down > 0.0 { up / down * (count - 1.0) } else { 0.0 }
    }

    fn mean(&self) -> f64 {
        self.values.iter().sum::<f64>() / number(self.values.len().max(1))
    }

    fn grows(&self) -> bool {
        self.growth() > self.limit.absolute + self.limit.relative * self.mean()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a small count")]
fn number(count: usize) -> f64 {
    count as f64
}

/// All numbers of a run.
#[derive(Debug, Default)]
pub(crate) struct Growth(Vec<Series>);

impl Growth {
    /// Adds a sample of one number.
    pub(crate) fn note(&mut self, name: &str, limit: Limit, value: f64) {
        match self.0.iter_mut().find(|series| series.name == name) {
            Some(series) => series.values.push(value),
            None => self.0.push(Series { name: name.to_owned(), limit, values: vec![value] }),
        }
    }

    /// Returns the names of numbers that grow.
    pub(crate) fn growing(&self) -> Vec<&str> {
        self.0.iter().filter(|series| series.grows()).map(|series| series.name.as_str()).collect()
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<44} {:>14} {:>14} {:>14}  verdict", "number", "first", "last", "growth")?;
        for series in &self.0 {
            let [first, last] =
                [series.values.first(), series.values.last()].map(|value| *value.unwrap_or(&0.0));
            let verdict = if series.grows() { "✗ grows" } else { "flat" };
            writeln!(
                f,
                "{:<44} {first:>14.1} {last:>14.1} {:>14.1}  {verdict}",
                series.name,
                series.growth()
            )?;
        }
        Ok(())
    }
}
