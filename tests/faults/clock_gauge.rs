//! The gauge of the clock shows how wrong it is also while every delivery is refused for it.

use rollbook_testkit::process::Home;
use rollbook_testkit::servers::shim::Shim;

use super::clocks::{EVENT, HOUR, SKEW_WITHIN};
use super::on_shim;
use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gauge_shows_a_clock_that_is_hours_off_although_every_delivery_is_refused() {
    let shim = Shim::new(".db");
    let home = on_shim(Home::new(BINARY), &shim);
    home.migrate();
    let _receiver = home.start_ready(&["receive"]).await;
    for ahead in [2 * HOUR, -2 * HOUR, 600] {
        shim.shift_clock(ahead);
        assert_eq!(status(&exchange(home.listen, &signed("msg_refused", EVENT)).await), 400, "{ahead} s");
        let shown = home.metric("rollbook_clock_skew_seconds").await.expect("a gauge");
        // How far the sender is ahead of us.
        let ahead = f64::from(i32::try_from(ahead).expect("few seconds"));
        assert!((shown + ahead).abs() < SKEW_WITHIN, "{ahead} s: {shown}");
    }
}
