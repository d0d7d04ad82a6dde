-- The ledger lives in a file of its own: it outlives the warehouse, and backtests share it.

-- Every generation ever paid for, keyed by content: hash of task, template, rendered prompt, schema, model, sampling.
CREATE TABLE IF NOT EXISTS generations (
    key               VARCHAR PRIMARY KEY,
    task              VARCHAR NOT NULL,
    subject           VARCHAR NOT NULL,     -- what it was made for (catalogue, then review, item or user), so it can be forgotten
    model             VARCHAR NOT NULL,
    template          VARCHAR NOT NULL,     -- fingerprint of the template file
    status            VARCHAR NOT NULL CHECK (status IN ('ok', 'failed')),
    answer            VARCHAR,              -- JSON of the last answer as the model gave it, before any check changed it; NULL if none parsed
    probabilities     JSON,                 -- probability of each choice, for constrained choices
    reason            VARCHAR,              -- why it failed
    attempts          INTEGER NOT NULL,
    prompt_tokens     BIGINT NOT NULL,      -- summed over attempts
    completion_tokens BIGINT NOT NULL,
    created_at        TIMESTAMP NOT NULL,
    hits              BIGINT NOT NULL DEFAULT 0  -- times it was asked for again and not paid for
);
