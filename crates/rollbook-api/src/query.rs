//! Values of a URL's query. A parameter that is unknown, repeated or not valid is refused: a misspelt filter or check must
//! not pass for none.

use std::time::Duration;

use crate::problem::Problem;

/// Returns the values of each parameter, in the order of `names`.
pub(crate) fn values<const N: usize>(query: &str, names: [&str; N]) -> Result<[Vec<String>; N], Problem> {
    let mut values: [Vec<String>; N] = std::array::from_fn(|_| Vec::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let Some(index) = names.iter().position(|known| *known == name) else {
            let accepted = match names.len() {
                0 => "is not known; there are no parameters".to_owned(),
                _ => format!("is not known; the parameters are {}", names.join(", ")),
            };
            return Err(Problem::parameter(&shown(&name), &accepted));
        };
        values[index].push(value.into_owned());
    }
    Ok(values)
}

/// Returns a name of a stranger in a form that fits an answer.
fn shown(name: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let name: String = name.chars().filter(plain).take(32).collect();
    if name.is_empty() { "?".to_owned() } else { name }
}

/// Returns the only value of a parameter.
pub(crate) fn single(name: &str, mut values: Vec<String>) -> Result<Option<String>, Problem> {
    match values.len() {
        0 | 1 => Ok(values.pop()),
        _ => Err(Problem::parameter(name, "is repeated; write it once")),
    }
}

/// Parses a number from one. `with` is added to the refusal.
pub(crate) fn number(name: &str, text: &str, max: usize, with: &str) -> Result<usize, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let read = text.parse().ok().filter(|number| digits && (1..=max).contains(number));
    read.ok_or_else(|| Problem::parameter(name, &format!("write a number from 1 to {max}{with}")))
}

/// Parses a duration in milliseconds or seconds. `such_as` are examples for the refusal.
pub(crate) fn duration(
    name: &str,
    text: &str,
    such_as: &str,
    min: Duration,
    max: Duration,
) -> Result<Duration, Problem> {
    let read = || {
        let (number, millis) = match text.strip_suffix("ms") {
            Some(number) => (number, 1),
            None => (text.strip_suffix('s')?, 1000),
        };
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| digits)?;
        let duration = Duration::from_millis(number.checked_mul(millis)?);
        Some(duration).filter(|duration| (min..=max).contains(duration))
    };
    read().ok_or_else(|| {
        let least = if min.is_zero() { String::new() } else { format!("at least {}s and ", min.as_secs()) };
        let accepted = format!("write it as {such_as}, {least}at most {}s", max.as_secs());
        Problem::parameter(name, &accepted)
    })
}
