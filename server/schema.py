"""Tables of `ledger.sqlite`. Times named `*_wall` are Unix seconds, `*_s` are monotonic durations.

A column that may be NULL is NULL when the value is not known: never 0.
"""

from __future__ import annotations

SCHEMA_VERSION = 8

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (            -- schema, run, settings (JSON), task_hash, rounds, outcome
    key TEXT PRIMARY KEY, value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS sessions (        -- one row per start of the server
    epoch INTEGER PRIMARY KEY, started_wall REAL NOT NULL, duration_s REAL NOT NULL DEFAULT 0,
    bytes_in INTEGER NOT NULL DEFAULT 0,     -- payload bytes of every message received, repeats included
    frames_bad INTEGER NOT NULL DEFAULT 0, mirror_dropped INTEGER NOT NULL DEFAULT 0,
    ended TEXT NOT NULL DEFAULT ''           -- finished, stopped, failed: reason; '' = killed or still running
);

CREATE TABLE IF NOT EXISTS nodes (           -- last word of each life of each device
    node TEXT NOT NULL, epoch INTEGER NOT NULL, status TEXT NOT NULL, board TEXT NOT NULL, engine TEXT NOT NULL,
    meter TEXT NOT NULL, samples INTEGER NOT NULL, published INTEGER NOT NULL, acknowledged INTEGER NOT NULL,
    pending INTEGER NOT NULL, seen_wall REAL NOT NULL,
    PRIMARY KEY (node, epoch)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS rounds (          -- one row per opening of a round
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, epoch INTEGER NOT NULL,
    kind TEXT NOT NULL, algorithm TEXT NOT NULL, plan TEXT NOT NULL,   -- plan: RoundPlan as JSON
    model_version INTEGER NOT NULL,          -- the version its updates start from
    invited TEXT NOT NULL,                   -- JSON list: devices asked in this or an earlier opening
    selected TEXT NOT NULL, needed INTEGER NOT NULL, deadline_s REAL NOT NULL, opened_wall REAL NOT NULL,
    duration_s REAL, closed TEXT,            -- NULL while open; complete, deadline, empty, interrupted
    admitted INTEGER, new_version INTEGER,   -- NULL: the model was left as it is
    PRIMARY KEY (round, attempt)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS updates (
    uid TEXT PRIMARY KEY, node TEXT NOT NULL, epoch INTEGER, round INTEGER NOT NULL, model_version INTEGER,
    status TEXT NOT NULL CHECK (status IN ('admitted', 'refused')),
    code TEXT NOT NULL, reason TEXT NOT NULL,             -- '' when admitted
    samples INTEGER, loss REAL, norm REAL,                -- norm: NULL of a masked one
    bytes INTEGER NOT NULL, sha256 TEXT NOT NULL,
    object BLOB,                             -- the object as it came; NULL when refused
    sequence INTEGER,                        -- counts admissions, from 1, as they came; NULL when refused
    received_wall REAL NOT NULL, redelivered INTEGER NOT NULL DEFAULT 0,
    mirrored INTEGER NOT NULL DEFAULT 0,     -- how often it was handed to the mirror in full
    noise REAL,                              -- noise_multiplier of its plan; NULL: the object could not be read
    epsilon REAL,                            -- of all the device's updates so far, at delta; NULL: none, see the reason
    delta REAL, epsilon_reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS updates_by_round ON updates (round, status, uid);
CREATE INDEX IF NOT EXISTS updates_by_node ON updates (node);
CREATE UNIQUE INDEX IF NOT EXISTS updates_by_sequence ON updates (sequence);

CREATE TABLE IF NOT EXISTS models (          -- version 0 is the initial model
    version INTEGER PRIMARY KEY, round INTEGER NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
    object BLOB,                             -- contract.messages.Model with its tensors; NULL once pruned
    velocity BLOB                            -- or FedAdam's moments; safetensors, float64; NULL: none so far, or pruned
);

CREATE TABLE IF NOT EXISTS retained (        -- models on the broker; rows of `models` are too long to change
    version INTEGER PRIMARY KEY, chunks INTEGER NOT NULL               -- chunks under which it was last published
);

CREATE TABLE IF NOT EXISTS graphs (          -- the task's ONNX graphs, as exported in the run's first life
    name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, object BLOB NOT NULL,
    error REAL NOT NULL,                     -- greatest relative error against snntorch when it was checked
    export_s REAL NOT NULL,
    chunks INTEGER NOT NULL DEFAULT 0        -- chunks under which it was last published, 0 once cleared
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS aggregated (      -- which update entered which version; on purpose without a key on uid
    version INTEGER NOT NULL, round INTEGER NOT NULL, uid TEXT NOT NULL,
    weight REAL NOT NULL,                    -- samples behind it, or what the aggregator made of them; 0: left out
    staleness INTEGER NOT NULL DEFAULT 0,    -- versions that its model was behind the one it changed
    factor REAL NOT NULL DEFAULT 1           -- on its values, for its staleness
);

CREATE TABLE IF NOT EXISTS evaluations (     -- of a version, on the held-out samples; round: the one that made it
    version INTEGER PRIMARY KEY, round INTEGER NOT NULL, accuracy REAL NOT NULL, loss REAL NOT NULL,
    samples INTEGER NOT NULL, duration_s REAL NOT NULL
);

CREATE TABLE IF NOT EXISTS objects (         -- energy reports, scores and truths that were accepted, for idempotence
    uid TEXT PRIMARY KEY, kind TEXT NOT NULL, node TEXT NOT NULL, round INTEGER NOT NULL, update_uid TEXT NOT NULL,
    bytes INTEGER NOT NULL, received_wall REAL NOT NULL, redelivered INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;                             -- kind: energy, truth, score; score aggregate, score models: of a view

CREATE TABLE IF NOT EXISTS energy (          -- one row per reading; rows of different provenance are never added up
    update_uid TEXT NOT NULL, node TEXT NOT NULL, round INTEGER NOT NULL, phase TEXT NOT NULL,
    energy_j REAL, duration_s REAL NOT NULL, source TEXT NOT NULL, scope TEXT NOT NULL, provenance TEXT NOT NULL,
    reason TEXT NOT NULL, resolution_j REAL, samples INTEGER NOT NULL, uncertainty_j REAL, overhead_s REAL,
    CHECK ((energy_j IS NULL) = (provenance = 'unavailable'))
);
CREATE INDEX IF NOT EXISTS energy_by_update ON energy (update_uid);

CREATE TABLE IF NOT EXISTS baselines (       -- idle power of the update's device, one row per meter, from its report
    update_uid TEXT NOT NULL, node TEXT NOT NULL, round INTEGER NOT NULL, source TEXT NOT NULL, scope TEXT NOT NULL,
    power_w REAL, stdev_w REAL, uncertainty_w REAL, duration_s REAL NOT NULL, windows INTEGER NOT NULL,
    reason TEXT NOT NULL,
    CHECK ((power_w IS NULL) = (reason != ''))
);
CREATE INDEX IF NOT EXISTS baselines_by_update ON baselines (update_uid);

CREATE TABLE IF NOT EXISTS operations (      -- operations counted on the device for one update
    update_uid TEXT PRIMARY KEY, node TEXT NOT NULL, round INTEGER NOT NULL, payload_bytes INTEGER NOT NULL,
    macs INTEGER NOT NULL, effective_macs INTEGER NOT NULL, acs INTEGER NOT NULL, dense_macs INTEGER NOT NULL,
    membrane_updates INTEGER NOT NULL, backward_macs INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL, backward_bytes INTEGER NOT NULL,
    spikes INTEGER NOT NULL, spike_sites INTEGER NOT NULL,
    active TEXT NOT NULL, sites TEXT NOT NULL -- JSON lists, one entry a layer: inputs not 0, and inputs
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS masking_messages ( -- of secure aggregation: of devices with their bytes, to devices counted
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, node TEXT NOT NULL,
    message TEXT NOT NULL,                   -- KeyOffer, ShareOffer, Reveal; Roster, ShareBundle, Survivors
    bytes INTEGER NOT NULL, times INTEGER NOT NULL,                    -- payloads, repetitions included
    object BLOB,                             -- NULL of what was told to a device, or only came too late
    wall REAL NOT NULL,
    PRIMARY KEY (round, attempt, node, message)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS masked_sums (     -- what the masked updates of a round sum up to
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, threshold INTEGER NOT NULL, asked INTEGER NOT NULL,
    members TEXT NOT NULL, survivors TEXT NOT NULL, uids TEXT NOT NULL,   -- JSON lists
    step REAL NOT NULL,                      -- what one unit is worth
    shapes TEXT NOT NULL,                    -- JSON map of tensors; they lie in `total` in the order of their names
    total BLOB NOT NULL,                     -- int32, little-endian
    unmask_s REAL NOT NULL,
    PRIMARY KEY (round, attempt)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS masking_costs (   -- what secure aggregation added to one update, by its device's account
    update_uid TEXT NOT NULL, node TEXT NOT NULL, round INTEGER NOT NULL,
    part TEXT NOT NULL,                      -- setup: keys, shares and masks, in `energy` too; reveal: after the update
    work TEXT NOT NULL,                      -- computing, sending
    bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL,            -- of the part, in all of its rows
    energy_j REAL, duration_s REAL NOT NULL, source TEXT NOT NULL, scope TEXT NOT NULL, provenance TEXT NOT NULL,
    reason TEXT NOT NULL, resolution_j REAL, samples INTEGER NOT NULL, uncertainty_j REAL, overhead_s REAL,
    PRIMARY KEY (update_uid, part, work, source, scope),
    CHECK ((energy_j IS NULL) = (provenance = 'unavailable'))
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS views (           -- what is seen of several devices of a round together (`server.vantages`)
    uid TEXT PRIMARY KEY,
    seen TEXT NOT NULL,                      -- aggregate: the sum that secure aggregation opened; models: a difference
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, model_version INTEGER NOT NULL,
    parts TEXT NOT NULL,                     -- JSON list of [device, uid of its update, samples]
    object BLOB,                             -- contract.messages.Aggregate; NULL: nothing can be seen, note says why
    note TEXT NOT NULL, mirrored INTEGER NOT NULL DEFAULT 0, made_wall REAL NOT NULL
);

CREATE TABLE IF NOT EXISTS reconstructions ( -- what the attacker said of one update, per attack and what it saw
    update_uid TEXT NOT NULL, attack TEXT NOT NULL, node TEXT NOT NULL, round INTEGER NOT NULL,
    seen TEXT NOT NULL,                      -- update: itself; aggregate, models: a view that holds it
    verdict TEXT NOT NULL, reason TEXT NOT NULL, seconds REAL NOT NULL, objective REAL,
    labels TEXT NOT NULL,                    -- JSON list
    shape TEXT NOT NULL,                     -- JSON list; of `images` before the cap: [n, …]; [] without images
    images BLOB,                             -- float32, the first images only; NULL outside audit rounds or without
    kept INTEGER NOT NULL DEFAULT 0,         -- how many images are kept
    received_wall REAL NOT NULL,
    PRIMARY KEY (update_uid, attack, seen)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS noise_controls (  -- the same attacks on noise with that update's shapes and norms
    update_uid TEXT NOT NULL, attack TEXT NOT NULL, node TEXT NOT NULL, round INTEGER NOT NULL,
    seen TEXT NOT NULL,
    verdict TEXT NOT NULL, reason TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (update_uid, attack, seen)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS scores (          -- what attacks gave, held against the truth by the device that owns it
    update_uid TEXT NOT NULL, attack TEXT NOT NULL, node TEXT NOT NULL, round INTEGER NOT NULL,
    seen TEXT NOT NULL,                      -- as in reconstructions; figures are of this update's samples always
    batch INTEGER NOT NULL,                  -- samples in the update
    verdict TEXT NOT NULL, reason TEXT NOT NULL, seconds REAL NOT NULL, objective REAL,
    psnr_db REAL, ssim REAL, sample INTEGER NOT NULL, candidate INTEGER NOT NULL,
    wrong_sample_db REAL, mean_image_db REAL, labels_right INTEGER,
    matched_psnr_db REAL, unmatched INTEGER, identified REAL,          -- mean over all true samples, best assignment
    frames_exact REAL, frames_placed REAL, spike_precision REAL, spike_recall REAL,
    rate_psnr_db REAL, rate_bound_db REAL, lpips REAL, membership_auc REAL,
    PRIMARY KEY (update_uid, attack, seen)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS noise_scores (    -- the same held against the update's truth, by its device
    update_uid TEXT NOT NULL, attack TEXT NOT NULL, node TEXT NOT NULL, round INTEGER NOT NULL,
    seen TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL,
    psnr_db REAL, ssim REAL, identified REAL,   -- NULL: no image
    PRIMARY KEY (update_uid, attack, seen)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS truths (          -- true inputs, lab mode only
    update_uid TEXT NOT NULL, sample INTEGER NOT NULL, node TEXT NOT NULL, round INTEGER NOT NULL,
    label INTEGER, shape TEXT NOT NULL, image BLOB NOT NULL,           -- float32
    PRIMARY KEY (update_uid, sample)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, wall REAL NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL
);
"""
