//! How an exchange can give no whole answer, as far as classification needs to know.

/// How an exchange gave no whole answer; the transport's error without its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportFault {
    /// No connection: refused, DNS, TLS. Nothing was sent.
    Connect,
    /// The connection broke before an answer. The server may have done the work.
    Lost,
    /// Nothing came in time. The server may have done the work.
    Timeout,
    /// The answer ended before it was whole. The server did the work, or failed half-way.
    CutOff,
    /// The answer is larger than what we hold.
    TooLarge,
    /// The request could not be made. Nothing was sent.
    Unusable,
}

impl TransportFault {
    /// Whether the server may have received the request, and done what it asked.
    pub fn maybe_done(self) -> bool {
        match self {
            TransportFault::Connect | TransportFault::Unusable => false,
            TransportFault::Lost
            | TransportFault::Timeout
            | TransportFault::CutOff
            | TransportFault::TooLarge => true,
        }
    }
}
