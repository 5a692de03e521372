//! What a broken call means: for its caller a status, for its server perhaps a rest.

use std::error::Error;
use std::sync::Arc;

use h2::Reason;
use tonic::{Code, ConnectError, Status, TimeoutExpired};

use crate::calls::retry::NeverSent;

/// A call that broke without an answer of gRPC.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: Status,
    /// Other calls to this server would break too.
    pub(super) breaks_connection: bool,
}

/// What is known of the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The connection's own clock was first.
    Deadline,
    /// There was no connection, or none any more, when the request was to be sent.
    NoConnection,
    /// The server ended this call alone.
    Reset(Reason),
    /// The connection broke: the server may have seen the request.
    Connection,
}

/// The failure of a call before a head came.
pub(super) fn of_call(authority: &str, error: &(dyn Error + 'static)) -> Failure {
    let cause = cause(error).unwrap_or(Cause::Connection);
    Failure {
        status: status(authority, cause, error),
        breaks_connection: matches!(cause, Cause::NoConnection | Cause::Connection),
    }
}

/// The status when a response's body broke. It would be `UNKNOWN` otherwise.
pub(super) fn in_body(authority: &str, broken: Status) -> Status {
    match broken.source().and_then(cause) {
        Some(cause) => status(authority, cause, &broken),
        None => broken,
    }
}

fn status(authority: &str, cause: Cause, error: &dyn Error) -> Status {
    let reason = chain(error);
    match cause {
        Cause::Deadline => Status::deadline_exceeded(format!("{authority} did not answer in time")),
        Cause::NoConnection => never_sent(format!("no connection to {authority}: {reason}")),
        Cause::Reset(Reason::REFUSED_STREAM) => {
            never_sent(format!("{authority} took no more calls: {reason}"))
        }
        Cause::Reset(code) => Status::new(
            of_reset(code),
            format!("{authority} broke the call off: {reason}"),
        ),
        Cause::Connection => Status::unavailable(format!(
            "the connection to {authority} broke during the call: {reason}"
        )),
    }
}

fn never_sent(message: String) -> Status {
    let mut status = Status::unavailable(message);
    status.set_source(Arc::new(NeverSent));
    status
}

/// The codes for errors of HTTP/2, from "gRPC over HTTP2".
fn of_reset(reason: Reason) -> Code {
    match reason {
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

fn cause(error: &(dyn Error + 'static)) -> Option<Cause> {
    let mut found = None;
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<TimeoutExpired>() {
            return Some(Cause::Deadline);
        }
        if error.is::<ConnectError>() {
            return Some(Cause::NoConnection);
        }
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let reason = error.reason().filter(|_| error.is_reset());
            return Some(reason.map_or(Cause::Connection, Cause::Reset));
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            // With HTTP/2, hyper cancels what it did not give to the connection, and only that.
            if error.is_canceled() {
                return Some(Cause::NoConnection);
            }
            // What is below may say it better.
            found = Some(Cause::Connection);
        }
        next = error.source();
    }
    found
}

/// An error and its sources in one line; what was said already is left out.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn was_never_sent(status: &Status) -> bool {
        status.source().is_some_and(<dyn Error>::is::<NeverSent>)
    }

    #[test]
    fn a_call_without_a_connection_was_never_sent() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let failure = of_call("a:1", &ConnectError(Box::new(refused)));
        let status = &failure.status;
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "no connection to a:1: connection refused");
        assert!(failure.breaks_connection && was_never_sent(status));
    }

    #[test]
    fn a_refused_call_was_never_seen() {
        let cause = Cause::Reset(Reason::REFUSED_STREAM);
        let status = status("a:1", cause, &h2::Error::from(Reason::REFUSED_STREAM));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(was_never_sent(&status));
    }

    #[test]
    fn anything_else_may_have_been_seen() {
        let failure = of_call("a:1", &io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.status.code(), Code::Unavailable);
        assert!(failure.breaks_connection && !was_never_sent(&failure.status));
    }

    #[test]
    fn the_clock_of_a_connection_says_nothing_of_it() {
        let failure = of_call("a:1", &TimeoutExpired(()));
        assert_eq!(failure.status.code(), Code::DeadlineExceeded);
        assert!(!failure.breaks_connection);
    }
}
