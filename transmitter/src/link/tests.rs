mod certificates;
mod listening;
mod receiver;
pub(super) mod secured;

use super::*;

#[test]
fn only_an_error_that_will_not_pass_loses_the_image() {
    // EMFILE and EIO.
    for passing in [24, 5] {
        let error = std::io::Error::from_raw_os_error(passing);
        assert!(matches!(unreadable(error), DeliveryError::Unavailable(_)));
    }
    let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
    assert!(matches!(unreadable(gone), DeliveryError::Unreadable(_)));
}
