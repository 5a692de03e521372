//! Answers that no receiver of this project gives, and those that it gives seldom.

mod pieces;
mod script;
mod tus;

use bytes::Bytes;
use http::StatusCode;
use shared::image::ImageId;

use super::answer::Answer;
use crate::link::DeliveryError;

#[test]
fn an_answer_of_somebody_else_makes_the_image_wait_and_not_the_connection() {
    let id = ImageId::new();
    for (status, answer) in [
        (StatusCode::BAD_GATEWAY, &b"<html>502</html>"[..]),
        (StatusCode::PAYLOAD_TOO_LARGE, b"{}"),
        (StatusCode::OK, b"welcome to the captive portal"),
    ] {
        let answer = Answer {
            status,
            body: Bytes::from_static(answer),
            ..Answer::default()
        };
        match answer.verdict(id) {
            Err(DeliveryError::Rejected(reject)) => {
                assert!(
                    reject.retryable && reject.image_id == Some(id),
                    "{reject:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
