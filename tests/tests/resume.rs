//! A large image over a link that keeps breaking: it arrives, and no break makes more than one
//! window be sent again.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::net::SocketAddr;

use pantelegraph_tests::pictures::{large, write_file};
use pantelegraph_tests::proxy::Proxy;
use pantelegraph_tests::route::{Route, listener, tokio_listener, transmit};
use pantelegraph_tests::station::{Data, Station};
use pantelegraph_transmitter::run::{RunOutcome, Summary};
use shared::report::Wire;
use tempfile::TempDir;
use tokio::task::JoinHandle;

macro_rules! over_all {
    ($($test:ident)*) => {
        over_all!(@route exchange Exchange $($test)*);
        over_all!(@route put Put $($test)*);
        over_all!(@route websocket WebSocket $($test)*);
        over_all!(@route listen Listen $($test)*);
        over_all!(@route rest Rest $($test)*);
    };
    (@route $name:ident $route:ident $($test:ident)*) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(pantelegraph_tests::route::Route::$route).await;
                }
            )*
        }
    };
}

over_all! {
    a_link_that_breaks_again_and_again_costs_a_window_each_time
    a_receiver_that_restarts_goes_on_with_what_it_has
}

const SIZE: usize = 12 << 20;
const WINDOW: u64 = 512 << 10;
/// Both ways together, so that more than a window of each connection arrives.
const LIFE: u64 = 2 << 20;

/// A transmitter with one large image, and a line to a receiver that can be spoiled.
struct Line {
    route: Route,
    proxy: Proxy,
    folder: TempDir,
    size: u64,
    listener: Option<std::net::TcpListener>,
}

impl Line {
    async fn new(route: Route) -> Self {
        let listener = (route == Route::Listen).then(listener);
        let target = listener
            .as_ref()
            .map(|listener| listener.local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let picture = large(SIZE, 1);
        write_file(&folder.path().join("large.png"), &picture.bytes);
        Self {
            route,
            proxy: Proxy::start(target).await,
            folder,
            size: picture.bytes.len() as u64,
            listener,
        }
    }

    async fn station(&self, data: Data) -> Station {
        if self.listener.is_none() {
            let station = Station::start_on(data, &[]).await;
            self.proxy.redirect(Some(self.route.address(&station)));
            return station;
        }
        let pull = format!("ws://{}", self.proxy.address);
        Station::start_on(data, &["--pull", &pull]).await
    }

    fn address(&self) -> SocketAddr {
        match &self.listener {
            Some(listener) => listener.local_addr().unwrap(),
            None => self.proxy.address,
        }
    }

    fn transmit(&self) -> JoinHandle<Summary> {
        let folder = self.folder.path().to_str().unwrap();
        let flags = [
            "--folder",
            folder,
            "--once",
            "--run",
            "resume",
            "--window",
            "512KiB",
            "--chunk-size",
            "64KiB",
            "--connections",
            "1",
        ];
        let config = self.route.config(self.address(), &flags);
        let listener = self.listener.as_ref().map(tokio_listener);
        tokio::spawn(async move { transmit(&config, listener).await })
    }

    /// The image is stored as it was sent; what the reports say of the bytes.
    async fn arrived(&self, station: &Station, summary: &Summary) -> Wire {
        assert_eq!(summary.outcome, RunOutcome::Delivered);
        let [stored] = &station.data().images()[..] else {
            panic!("one image")
        };
        let sent = std::fs::read(self.folder.path().join("large.png")).unwrap();
        assert!(std::fs::read(stored).unwrap() == sent, "other bytes");
        let told = station.report("resume").await.wire.unwrap();
        let wire = summary.reports[0].wire.unwrap();
        assert_eq!(
            (told.image_bytes_sent, told.image_bytes_resent),
            (wire.image_bytes_sent, wire.image_bytes_resent)
        );
        assert_eq!(wire.image_bytes_sent - wire.image_bytes_resent, self.size);
        wire
    }
}

async fn a_link_that_breaks_again_and_again_costs_a_window_each_time(route: Route) {
    let line = Line::new(route).await;
    line.proxy.cut_after(&[LIFE; 100]);
    let station = line.station(Data::default()).await;
    let summary = line.transmit().await.unwrap();
    let wire = line.arrived(&station, &summary).await;
    let breaks = line.proxy.cuts() as u64;
    assert!(breaks >= line.size / LIFE - 1, "{breaks} breaks");
    assert!(
        wire.image_bytes_resent <= breaks * WINDOW,
        "{breaks} breaks, {} bytes sent again",
        wire.image_bytes_resent
    );
}

async fn a_receiver_that_restarts_goes_on_with_what_it_has(route: Route) {
    let line = Line::new(route).await;
    // Whatever connection it is that carries the image.
    line.proxy.stall_after(&[LIFE * 2; 2]);
    let station = line.station(Data::default()).await;
    let running = line.transmit();
    line.proxy.stalled().await;
    let data = station.stop().await;
    line.proxy.release();
    if route != Route::Listen {
        line.proxy.redirect(None);
    }
    let station = line.station(data).await;
    let summary = running.await.unwrap();
    let wire = line.arrived(&station, &summary).await;
    assert!(
        wire.image_bytes_resent <= WINDOW,
        "{} bytes sent again",
        wire.image_bytes_resent
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_rest_a_bit_that_changes_on_the_way_costs_one_piece_and_not_the_image() {
    let line = Line::new(Route::Rest).await;
    let station = line.station(Data::default()).await;
    // In the second of the requests that bring the image a window at a time.
    line.proxy.flip_at(WINDOW + WINDOW / 2);
    let summary = line.transmit().await.unwrap();
    let wire = line.arrived(&station, &summary).await;
    assert_eq!(wire.image_bytes_resent, WINDOW);
    let totals = summary.reports[0].totals;
    assert_eq!((totals.delivered, totals.retries), (1, 0));
}
