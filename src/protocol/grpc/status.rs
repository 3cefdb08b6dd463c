//! What a status of gRPC has beside its code and message: `google.rpc.Status`, which libraries read out of the trailer
//! `grpc-status-details-bin`.

/// The status as a message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// The code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// The same in words.
    #[prost(string, tag = "2")]
    pub message: String,
    /// What else there is to say.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// A message of any type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// Which type that is.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}
