//! How much of what is limited is in use, read when somebody asks.

use std::fmt::Write as _;
use std::sync::Arc;

use shared::door::Guests;

use crate::intake::Intake;

/// Gives figures of now, in the text format of Prometheus.
pub type Load = Arc<dyn Fn() -> String + Send + Sync>;

/// Of a receiver whose connections are `guests`, and whose sessions may have `credit` bytes under way
/// each.
pub fn load(intake: &Arc<Intake>, guests: &Arc<Guests>, credit: u64) -> Load {
    let (intake, guests) = (Arc::clone(intake), Arc::clone(guests));
    Arc::new(move || {
        let mut page = Page::default();
        connections(&mut page, &guests);
        images(&mut page, &intake);
        let budget = intake.budget();
        page.gauge(
            "pantelegraph_memory_capacity_bytes",
            "Bytes from clients that may be in memory while there is no connection.",
            &[("", budget.usage().capacity)],
        );
        page.gauge(
            "pantelegraph_session_credit_bytes",
            "Bytes that a session may have under way now; less than --credit when memory is short.",
            &[("", budget.credit(credit, 0))],
        );
        page.0 + &shared::telemetry::process::figures()
    })
}

fn connections(page: &mut Page, guests: &Guests) {
    let states = guests.states();
    page.gauge(
        "pantelegraph_connections",
        "Connections: without a request yet, without one now, and at work.",
        &[
            ("{state=\"new\"}", states.newcomers as u64),
            ("{state=\"idle\"}", states.idle as u64),
            ("{state=\"busy\"}", states.busy as u64),
        ],
    );
    page.gauge(
        "pantelegraph_connections_limit",
        "Connections that there may be.",
        &[("", guests.bounds().connections as u64)],
    );
}

fn images(page: &mut Page, intake: &Intake) {
    let going = intake.going();
    page.gauge(
        "pantelegraph_images_storing",
        "Images that came whole and are not answered yet.",
        &[("", going.storing as u64)],
    );
    page.gauge(
        "pantelegraph_images_unfinished",
        "Images of which a part is here: that are being sent, and that nobody sends now.",
        &[
            ("{state=\"sent\"}", going.sent as u64),
            ("{state=\"left\"}", going.left as u64),
        ],
    );
    page.gauge(
        "pantelegraph_images_left_bytes",
        "Bytes of unfinished images that nobody sends now.",
        &[("", going.left_bytes)],
    );
    let busy = going.pools.map(|pool| (pool.label, pool.busy as u64));
    let sizes = going.pools.map(|pool| (pool.label, pool.size as u64));
    page.gauge(
        "pantelegraph_pool_busy",
        "Of a pool, what is at work.",
        &busy,
    );
    page.gauge(
        "pantelegraph_pool_size",
        "Of a pool, what may be at work at a time.",
        &sizes,
    );
    page.gauge(
        "pantelegraph_catalogue_waiting",
        "Entries and questions that wait for the catalogue.",
        &[("", intake.catalog().waiting())],
    );
}

/// What is going on in an intake.
#[derive(Debug, Clone, Copy)]
pub struct Going {
    /// Images that are being stored.
    pub storing: usize,
    /// Images that are being sent.
    pub sent: usize,
    /// Unfinished images that nobody sends.
    pub left: usize,
    /// Their bytes.
    pub left_bytes: u64,
    /// Work that is kept to a few at a time.
    pub pools: [Pool; 2],
}

/// Work that is kept to a few at a time.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    /// As it stands behind the name of a figure.
    pub label: &'static str,
    /// At work.
    pub busy: usize,
    /// May be.
    pub size: usize,
}

/// The page in the making.
#[derive(Default)]
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, samples: &[(&str, u64)]) {
        // Writing to a text cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}
