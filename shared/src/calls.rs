//! Placeholder.
/// Stub.
#[derive(Clone, Default)]
pub struct HonourDeadlineLayer;
impl<S> tower::Layer<S> for HonourDeadlineLayer { type Service = S; fn layer(&self, s: S) -> S { s } }
