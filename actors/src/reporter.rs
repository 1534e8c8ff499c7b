//! Reporter: reads every mailbox's meters and logs one line an actor each interval.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResult};

use crate::accountant::millis;
use crate::address::Metered;
use crate::meter::{Meter, Reading, Spread};
use crate::supervisor::Lifeline;

/// Logs the meters now, besides the interval; answers with what was logged.
pub struct Report;

impl Message for Report {
    type Result = Vec<Reading>;
}

/// See the module.
pub struct Reporter {
    meters: Vec<Arc<Meter>>,
    interval: Duration,
    _lifeline: Lifeline,
}

impl Reporter {
    pub(crate) fn new(meters: Vec<Arc<Meter>>, settings: &crate::Settings, lifeline: Lifeline) -> Self {
        Reporter { meters, interval: settings.metrics.log_interval, _lifeline: lifeline }
    }

    fn report(&self) -> Vec<Reading> {
        let readings: Vec<Reading> = self.meters.iter().map(|meter| meter.read()).collect();
        readings.iter().for_each(log);
        readings
    }
}

fn log(reading: &Reading) {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let Spread { p50, p99, max } = reading.wait;
    tracing::info!(
        actor = reading.name,
        depth = reading.depth,
        high_water = reading.high_water,
        handled = reading.handled,
        rejected = reading.rejected,
        wait_p50_us = micros(p50),
        wait_p99_us = micros(p99),
        wait_max_us = micros(max),
        handle_p50_ms = millis(reading.handle.p50),
        handle_p99_ms = millis(reading.handle.p99),
        handle_max_ms = millis(reading.handle.max),
        restarts = reading.restarts,
        "mailbox"
    );
}

impl Actor for Reporter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.interval, |reporter, _| {
            reporter.report();
        });
    }
}

impl Handler<Metered<Report>> for Reporter {
    type Result = MessageResult<Metered<Report>>;

    fn handle(&mut self, message: Metered<Report>, _: &mut Self::Context) -> Self::Result {
        let (Report, _handling) = message.open();
        MessageResult(self.report())
    }
}
