//! The numbers that bound control's memory and what strangers may cost.

use std::time::Duration;

/// How many streams a node holds.
pub const STREAMS_MAX: usize = 1_000_000;
/// How many subscriptions that are not closed one stream holds.
pub const SUBSCRIPTIONS_MAX: u32 = 100_000;
/// How many tokens a node holds.
pub const TOKENS_MAX: usize = 10_000;
/// How many undecided requests without a name one address may have.
pub const REQUESTS_PER_ADDRESS_MAX: u32 = 20;
/// How many undecided requests without a name one stream may have.
pub const REQUESTS_PER_STREAM_MAX: u32 = 1000;
/// How many subscriptions without a name one address may have that are not closed.
pub const UNNAMED_PER_ADDRESS_MAX: u32 = 1000;
/// How many grants of one subscription are valid at a time.
pub const GRANTS_MAX: usize = 4;
/// How many tickets are open at a time.
pub const TICKETS_MAX: usize = 10_000;
/// After this an undecided request, or an accepted one whose grant nobody collected, lapses.
pub const REQUEST_AGE: Duration = Duration::from_secs(30 * 86_400);
/// How long a grant is valid unless less was imposed.
pub const GRANT_AGE: Duration = Duration::from_secs(90 * 86_400);
/// How long a grant stays valid after it was renewed.
pub const GRANT_OVERLAP: Duration = Duration::from_secs(3600);
/// How long a ticket opens a connection.
pub const TICKET_AGE: Duration = Duration::from_secs(120);
