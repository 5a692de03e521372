//! Which cap holds when.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::{BandwidthOptions, BandwidthWindow};

const MINUTES: u16 = 24 * 60;

/// The cap at this minute of the day, bytes per second.
pub(super) fn cap_at(options: &BandwidthOptions, minute: u16) -> Option<u64> {
    let covering = options
        .schedule
        .iter()
        .find(|window| covers(window, minute));
    let cap = covering.map_or(options.base, |window| window.cap);
    cap.map(|cap| cap.bytes_per_second)
}

fn covers(window: &BandwidthWindow, minute: u16) -> bool {
    let BandwidthWindow { from, to, .. } = *window;
    if from < to {
        (from..to).contains(&minute)
    } else {
        minute >= from || minute < to
    }
}

/// The minute of the day on the clocks on the walls here. It is asked for anew each time, so that
/// a change to or from summer time, or of the system's clock, counts at once.
pub(super) fn local_minute() -> u16 {
    minute_at(Timestamp::now(), &TimeZone::system())
}

/// The minute of the day at a moment in a time zone.
pub(super) fn minute_at(moment: Timestamp, zone: &TimeZone) -> u16 {
    let time = zone.to_datetime(moment);
    let (hour, minute) = (time.hour().unsigned_abs(), time.minute().unsigned_abs());
    (u16::from(hour) * 60 + u16::from(minute)) % MINUTES
}
