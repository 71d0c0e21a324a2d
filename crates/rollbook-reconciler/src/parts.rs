//! Cuts a list into parts by `created_at`, with about the same number of objects in each.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, TryFutureExt as _, TryStreamExt as _, stream};
use rollbook_core::source::Window;

/// Number of rounds in which large parts are divided again. Each round at least halves their length: 41 rounds divide the time
/// since 1970 into milliseconds.
const ROUNDS_MAX: usize = 41;

/// A window, and the number of objects in it.
type Part = (Window, u64);

/// Cuts a part into windows of about `enough` objects, in their order. All windows of a round are counted at the same time, at
/// most `at_once`: each answer of Clerk takes a third of a second. Objects that were created evenly need one round.
pub(crate) async fn cut<'a, E>(
    whole: Part,
    enough: u64,
    at_once: usize,
    count: impl Fn(Window) -> BoxFuture<'a, Result<u64, E>>,
) -> Result<Vec<Window>, E> {
    let (enough, mut parts) = (enough.max(1), vec![whole]);
    for _ in 0..ROUNDS_MAX {
        let (large, mut rest): (Vec<Part>, Vec<Part>) =
            parts.iter().copied().partition(|part| is_large(part, enough));
        let windows = large.iter().flat_map(|(window, size)| divide(*window, size.div_ceil(enough)));
        let counts: Vec<_> = windows.map(|window| count(window).map_ok(move |size| (window, size))).collect();
        rest.extend(stream::iter(counts).buffered(at_once).try_collect::<Vec<Part>>().await?);
        let sum: u128 = rest.iter().map(|(_, size)| u128::from(*size)).sum();
        // Counts that add up to twice the whole contradict one another, and would let the parts grow without end. They are
        // useless: the walk finds out what is true.
        if large.is_empty() || sum > 2 * u128::from(whole.1) + 1 {
            break;
        }
        parts = rest;
    }
    Ok(join(parts, enough))
}

/// Whether a part is clearly larger than the others, and can be divided.
fn is_large((window, size): &Part, enough: u64) -> bool {
    size.saturating_sub(enough) > enough / 4 && window.to.since(window.from) > Duration::from_millis(1)
}

/// Divides a window into this number of windows of about the same length: at least two, and at most one for each millisecond.
fn divide(window: Window, number: u64) -> Vec<Window> {
    let span = window.to.since(window.from).as_millis();
    let number = u128::from(number.max(2)).min(span.max(1));
    let at = |of: u128| {
        let share = span * of / number;
        window.from.plus(Duration::from_millis(u64::try_from(share).unwrap_or(u64::MAX)))
    };
    let end = |of: u128| if of == number { window.to } else { at(of) };
    (0..number).map(|of| Window { from: at(of), to: end(of + 1) }).collect()
}

/// Joins neighbors that are not too large together.
fn join(mut parts: Vec<Part>, enough: u64) -> Vec<Window> {
    parts.sort_by_key(|(window, _)| window.from);
    let mut joined: Vec<Part> = Vec::new();
    for (window, size) in parts {
        match joined.last_mut() {
            Some((before, sum)) if sum.saturating_add(size) <= enough => {
                (before.to, *sum) = (window.to, *sum + size);
            }
            _ => joined.push((window, size)),
        }
    }
    joined.into_iter().map(|(window, _)| window).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::future::ready;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use rollbook_core::time::Timestamp;
    use tokio::time::Instant;

    use super::*;

    fn window(from: i64, to: i64) -> Window {
        Window { from: Timestamp::from_millis(from), to: Timestamp::from_millis(to) }
    }

    fn size(created: &[i64], window: Window) -> u64 {
        let is_within = |at: &&i64| (window.from.as_millis()..window.to.as_millis()).contains(*at);
        created.iter().filter(is_within).count() as u64
    }

    /// Cuts the objects of these times. Returns the windows, and the number of counts.
    fn cut_all(created: &[i64], whole: Window, enough: u64) -> (Vec<Window>, usize) {
        let counts = Cell::new(0);
        let count = |of| {
            counts.set(counts.get() + 1);
            ready(Ok::<u64, Infallible>(size(created, of))).boxed()
        };
        let cut = cut((whole, created.len() as u64), enough, 8, count);
        let windows = cut.now_or_never().expect("each count is ready");
        (windows.expect("each count succeeds"), counts.get())
    }

    #[test]
    fn objects_that_were_created_evenly_are_cut_by_one_count_for_each_part() {
        let created: Vec<i64> = (0..40_000).map(|number| number * 1_000).collect();
        let (windows, counts) = cut_all(&created, window(0, 40_000_000), 1_000);
        assert_eq!((windows.len(), counts), (40, 40));
        assert!(windows.iter().all(|of| size(&created, *of) == 1_000));
    }

    #[test]
    fn objects_of_one_minute_in_twenty_years_are_cut_in_a_few_rounds() {
        let (year, minute) = (365 * 86_400_000, 60_000);
        let created: Vec<i64> = (0..40_000).map(|number| 7 * year + number * minute / 40_000).collect();
        let (windows, counts) = cut_all(&created, window(0, 20 * year), 1_000);
        assert!((30..=60).contains(&windows.len()), "{} windows", windows.len());
        // Six rounds of 40. Halves would need 24 rounds.
        assert!(counts <= 7 * 40, "{counts} counts");
    }

    #[test]
    fn counts_that_contradict_one_another_cut_nothing() {
        for total in [40_000, u64::MAX - 1, u64::MAX] {
            let counts = Cell::new(0);
            let count = |_| {
                counts.set(counts.get() + 1);
                ready(Ok::<u64, Infallible>(total)).boxed()
            };
            let whole = window(0, 40_000_000);
            let cut = cut((whole, total), total.div_ceil(40), 8, count);
            let windows = cut.now_or_never().expect("each count is ready").expect("each count succeeds");
            assert_eq!((windows, counts.get()), (vec![whole], 40), "{total}");
        }
    }

    #[test]
    fn what_an_earlier_round_has_cut_stays_cut_when_later_counts_contradict_it() {
        let whole = window(0, 4_000);
        let count = |of: Window| {
            let is_short = of.to.since(of.from) < Duration::from_secs(1);
            ready(Ok::<u64, Infallible>(if is_short { 4_000 } else { 2_000 })).boxed()
        };
        let windows = cut((whole, 4_000), 1_000, 8, count).now_or_never().expect("ready").expect("counts");
        assert_eq!(windows.len(), 4, "{windows:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_counts_of_a_round_take_one_latency_and_no_more_are_under_way_than_allowed() {
        const LATENCY: Duration = Duration::from_millis(300);
        for (at_once, latencies) in [(40, 1), (8, 5)] {
            let (under_way, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let count = |of: Window| {
                let (under_way, most) = (&under_way, &most);
                let answer = async move {
                    most.fetch_max(under_way.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                    tokio::time::sleep(LATENCY).await;
                    under_way.fetch_sub(1, Ordering::Relaxed);
                    Ok::<u64, Infallible>(u64::try_from(of.to.since(of.from).as_millis()).expect("a number"))
                };
                answer.boxed()
            };
            let begun = Instant::now();
            let windows = cut((window(0, 40_000), 40_000), 1_000, at_once, count).await.expect("counts");
            assert_eq!((windows.len(), most.load(Ordering::Relaxed)), (40, at_once));
            let allowed = LATENCY * latencies..LATENCY * latencies + Duration::from_millis(20);
            assert!(allowed.contains(&begun.elapsed()), "{:?}", begun.elapsed());
        }
    }

    #[test]
    fn objects_of_one_millisecond_are_one_part() {
        let created = vec![5; 3_000];
        let (windows, _) = cut_all(&created, window(0, 10), 100);
        assert!(windows.contains(&window(5, 6)), "{windows:?}");
        assert_eq!(cut_all(&created, window(5, 5), 100).0, [window(5, 5)], "a window without length");
    }

    #[test]
    fn a_window_of_all_times_is_divided_to_its_end() {
        let all = divide(window(i64::MIN, i64::MAX), 3);
        assert_eq!((all.len(), all[0].from.as_millis(), all[2].to.as_millis()), (3, i64::MIN, i64::MAX));
    }

    proptest! {
        #[test]
        fn the_parts_follow_one_another_from_the_first_object_to_the_end_and_none_is_much_too_large(
            created in proptest::collection::vec(-100_000..100_000_i64, 0..400),
            enough in 0..50_u64,
        ) {
            let whole = window(-100_000, 100_000);
            let (windows, _) = cut_all(&created, whole, enough);
            let mut at = whole.from;
            for of in &windows {
                prop_assert_eq!(of.from, at);
                at = of.to;
                let is_one_millisecond = of.to.since(of.from) <= Duration::from_millis(1);
                prop_assert!(is_one_millisecond || size(&created, *of) <= enough.max(1) + enough / 4);
            }
            prop_assert_eq!(at, whole.to);
            let sizes = windows.iter().map(|of| size(&created, *of)).collect::<Vec<_>>();
            prop_assert!(sizes.windows(2).all(|pair| pair[0] + pair[1] > enough), "neighbors that fit together");
        }
    }
}
