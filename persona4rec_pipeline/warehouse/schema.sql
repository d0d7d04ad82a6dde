-- Every table of the warehouse. One table per asset, named like the asset; a column `catalog` is the Dagster partition.
-- The statements run at every opening and must stay idempotent.

-- A catalogue: a named batch of items and their reviews, and where its rows come from.
CREATE TABLE IF NOT EXISTS catalogs (
    catalog          VARCHAR PRIMARY KEY,
    reviews_source   VARCHAR NOT NULL,      -- file, folder or glob
    items_source     VARCHAR,               -- NULL: items are known from their reviews alone
    source_format    VARCHAR NOT NULL,      -- amazon_2023, amazon_2014, yelp, goodreads, generic
    column_mapping   JSON NOT NULL,         -- our column -> column of the source, for generic sources
    limit_items      INTEGER,               -- keep only this many of the most reviewed items
    domain           VARCHAR,               -- domain words; NULL: the setting
    source_fingerprint VARCHAR,             -- of the files at the last ingest; NULL: never ingested
    arrival          VARCHAR,               -- fingerprint of the folder of the watched location that was taken in last
    registered_at    TIMESTAMP NOT NULL
);

-- Asset `items`.
CREATE TABLE IF NOT EXISTS items (
    catalog     VARCHAR NOT NULL,
    item_id     VARCHAR NOT NULL,
    title       VARCHAR,                    -- NULL where the source has no metadata
    description VARCHAR,
    categories  VARCHAR[],
    attributes  JSON,                       -- author, price and whatever else the source tells, as text
    PRIMARY KEY (catalog, item_id)
);

-- Asset `reviews`. An interaction is one user's review of one item at one time, or their click on it, without text.
CREATE TABLE IF NOT EXISTS reviews (
    catalog     VARCHAR NOT NULL,
    review_id   VARCHAR NOT NULL,           -- hash of catalogue, user, item and time: the same in every ingest
    user_id     VARCHAR NOT NULL,
    item_id     VARCHAR NOT NULL,
    rating      DOUBLE,                     -- NULL where the source gives none
    is_positive BOOLEAN NOT NULL,
    title       VARCHAR,
    text        VARCHAR NOT NULL,           -- '': nothing was said
    reviewed_at TIMESTAMP NOT NULL,         -- UTC
    PRIMARY KEY (catalog, review_id)
);

-- Which rows of `reviews` came in while serving and not from the catalogue's source; see reviews/posted.py.
CREATE TABLE IF NOT EXISTS posted_reviews (
    catalog   VARCHAR NOT NULL,
    review_id VARCHAR NOT NULL,
    PRIMARY KEY (catalog, review_id)
);

-- How far the queue of interactions that came in while serving is taken in, per catalogue that had any.
CREATE TABLE IF NOT EXISTS posted_progress (
    catalog         VARCHAR PRIMARY KEY,
    read_through    BIGINT NOT NULL,        -- highest id of the queue that an ingest has read
    counted_through BIGINT NOT NULL,        -- id up to which `interaction_vectors` was made of what was read
    queue           VARCHAR NOT NULL        -- which queue: one that was begun anew gives the same ids to other interactions
);

-- Source rows that could not be used, kept with the reason.
CREATE TABLE IF NOT EXISTS rejected_rows (
    catalog VARCHAR NOT NULL,
    asset   VARCHAR NOT NULL,               -- items or reviews
    file    VARCHAR NOT NULL,
    line    BIGINT NOT NULL,                -- 1-based line (or row, for Parquet) in the file
    reason  VARCHAR NOT NULL,
    row_text VARCHAR                        -- the row as read, cut at 2,000 characters
);

-- Users who asked to be forgotten, by a hash of their id: their rows in a source are left out of every ingest.
CREATE TABLE IF NOT EXISTS forgotten_users (
    user_hash    VARCHAR PRIMARY KEY,       -- SHA-256, see reviews/ingest.py
    forgotten_at TIMESTAMP NOT NULL
);

-- Asset `splits`: what is held out. Every interaction has exactly one row.
CREATE TABLE IF NOT EXISTS splits (
    catalog      VARCHAR NOT NULL,
    review_id    VARCHAR NOT NULL,
    split        VARCHAR NOT NULL CHECK (split IN ('train', 'valid', 'test')),
    is_target    BOOLEAN NOT NULL,          -- the interaction that evaluation must find (valid and test only)
    PRIMARY KEY (catalog, review_id)
);

-- Asset `review_aspects`: the four slots of one train review, each with the span of the review that supports it.
CREATE TABLE IF NOT EXISTS review_aspects (
    catalog   VARCHAR NOT NULL,
    review_id VARCHAR NOT NULL,
    item_id   VARCHAR NOT NULL,
    user_id   VARCHAR NOT NULL,
    category_preference VARCHAR,            -- the kind of item they like
    category_preference_span INTEGER[],     -- [start, end) characters of reviews.text
    purchase_purpose VARCHAR,               -- what they wanted it for
    purchase_purpose_span INTEGER[],
    quality_criteria VARCHAR,               -- what they judge it by
    quality_criteria_span INTEGER[],
    usage_context VARCHAR,                  -- when, where and with whom
    usage_context_span INTEGER[],
    language VARCHAR,                       -- ISO 639-1 code of the review's language, as detected; NULL: too short to tell
    is_evidence BOOLEAN NOT NULL,           -- FALSE: too many empty slots to be persona evidence
    source      VARCHAR NOT NULL CHECK (source IN ('llm', 'extractive')),
    fallback_reason VARCHAR,                -- why the model's answer was not used
    made_from   VARCHAR,                    -- hash of review, title, prompt, model and rules; the same: not read again
    PRIMARY KEY (catalog, review_id)
);

-- Asset `item_summaries`: two or three neutral sentences per item.
CREATE TABLE IF NOT EXISTS item_summaries (
    catalog VARCHAR NOT NULL,
    item_id VARCHAR NOT NULL,
    title   VARCHAR NOT NULL,               -- items.title, or a name made from the item's train reviews
    summary VARCHAR NOT NULL,
    source  VARCHAR NOT NULL CHECK (source IN ('llm', 'extractive')),
    PRIMARY KEY (catalog, item_id)
);

-- Asset `personas`.
CREATE TABLE IF NOT EXISTS personas (
    catalog     VARCHAR NOT NULL,
    item_id     VARCHAR NOT NULL,
    persona_id  VARCHAR NOT NULL,
    name        VARCHAR NOT NULL,
    description VARCHAR NOT NULL,
    preference_rationale VARCHAR NOT NULL,
    polarity    VARCHAR NOT NULL CHECK (polarity IN ('appreciative', 'critical', 'mixed')),
    evidence_review_ids VARCHAR[] NOT NULL,
    evidence_spans STRUCT(review_id VARCHAR, "start" INTEGER, "end" INTEGER)[], -- characters of reviews.text it rests on
    quotes      VARCHAR[] NOT NULL,         -- sentences of the evidence, most central first
    support     DOUBLE,                     -- share (0-1) of other items' sentences that fit it less well than its evidence does;
                                            -- NULL without evidence
    language    VARCHAR,                    -- ISO 639-1 code of the language it is written in
    source      VARCHAR NOT NULL CHECK (source IN ('llm', 'extractive', 'summary')),
    fallback_reason VARCHAR,                -- why a generated persona was not used
    PRIMARY KEY (catalog, item_id, persona_id)
);

-- Of asset `personas`: what was not published, and why; as of the last time that the item's personas were made.
CREATE TABLE IF NOT EXISTS rejected_personas (
    catalog     VARCHAR NOT NULL,
    item_id     VARCHAR NOT NULL,
    name        VARCHAR NOT NULL,
    description VARCHAR NOT NULL,
    polarity    VARCHAR NOT NULL,
    support     DOUBLE,                     -- as in `personas`
    source      VARCHAR NOT NULL CHECK (source IN ('llm', 'extractive')),
    attempt     INTEGER NOT NULL,           -- 1: the first answer; 2: after it was told what was wrong
    reason      VARCHAR NOT NULL
);

-- Of asset `personas`: what each item's personas were made from. An item whose hash is the same keeps them as they are.
CREATE TABLE IF NOT EXISTS persona_evidence (
    catalog   VARCHAR NOT NULL,
    item_id   VARCHAR NOT NULL,
    made_from VARCHAR NOT NULL,             -- hash of summary, evidence, prompt, model and rules
    PRIMARY KEY (catalog, item_id)
);

-- Asset `alignment_pairs`: which persona of the item explains a past choice.
CREATE TABLE IF NOT EXISTS alignment_pairs (
    catalog    VARCHAR NOT NULL,
    review_id  VARCHAR NOT NULL,            -- the explained interaction
    user_id    VARCHAR NOT NULL,
    item_id    VARCHAR NOT NULL,
    persona_id VARCHAR NOT NULL,
    probability DOUBLE NOT NULL,            -- of the chosen persona
    option_ids  VARCHAR[] NOT NULL,         -- all options, and
    option_probabilities DOUBLE[] NOT NULL, -- their probabilities, in the same order
    history_review_ids VARCHAR[] NOT NULL,  -- earlier train interactions, most recent first
    shown_orders INTEGER[][],               -- per time that the judge was asked: places in option_ids, in the order shown
    order_probabilities DOUBLE[][],         -- per time: the probabilities of option_ids
    similarity_persona_id VARCHAR,          -- what similarity alone would have chosen
    entropy     DOUBLE,                     -- of option_probabilities over its highest value: 0 certain, 1 flat
    reviewed_at TIMESTAMP NOT NULL,
    source      VARCHAR NOT NULL CHECK (source IN ('llm', 'similarity')),
    PRIMARY KEY (catalog, review_id)
);

-- Unit vectors of texts by encoders that read texts, so that none is read twice; those of the assets below are not here.
CREATE TABLE IF NOT EXISTS encoded_texts (
    encoder   VARCHAR NOT NULL,             -- fingerprint
    text_hash VARCHAR NOT NULL,
    vector    FLOAT[] NOT NULL,
    PRIMARY KEY (encoder, text_hash)
);

-- Asset `persona_vectors`: unit vectors of persona texts.
CREATE TABLE IF NOT EXISTS persona_vectors (
    catalog    VARCHAR NOT NULL,
    item_id    VARCHAR NOT NULL,
    persona_id VARCHAR NOT NULL,
    text_hash  VARCHAR NOT NULL,            -- of the encoded text
    encoder    VARCHAR NOT NULL,            -- fingerprint of the encoder
    vector     FLOAT[] NOT NULL,
    PRIMARY KEY (catalog, item_id, persona_id)
);

-- Asset `interaction_vectors`: unit vectors of the most recent positive train interactions of each user.
CREATE TABLE IF NOT EXISTS interaction_vectors (
    catalog     VARCHAR NOT NULL,
    review_id   VARCHAR NOT NULL,
    user_id     VARCHAR NOT NULL,
    item_id     VARCHAR NOT NULL,
    reviewed_at TIMESTAMP NOT NULL,
    text_hash   VARCHAR NOT NULL,
    encoder     VARCHAR NOT NULL,
    vector      FLOAT[] NOT NULL,
    PRIMARY KEY (catalog, review_id)
);

-- Asset `item_vectors`: unit vectors of the text that an interaction with the item has if nothing is said about it.
CREATE TABLE IF NOT EXISTS item_vectors (
    catalog   VARCHAR NOT NULL,
    item_id   VARCHAR NOT NULL,
    text_hash VARCHAR NOT NULL,
    encoder   VARCHAR NOT NULL,
    vector    FLOAT[] NOT NULL,
    PRIMARY KEY (catalog, item_id)
);

-- Asset `candidates`: what each candidate generator proposes to each panel user, from train interactions alone.
CREATE TABLE IF NOT EXISTS candidates (
    generator VARCHAR NOT NULL,             -- whose list this is: popularity, item_knn, als, bpr, ease or file
    split     VARCHAR NOT NULL CHECK (split IN ('valid', 'test')),
    user_id   VARCHAR NOT NULL,
    rank      INTEGER NOT NULL,             -- 1 is best
    item_id   VARCHAR NOT NULL,             -- with its catalogue: catalog/item_id
    score     DOUBLE NOT NULL,              -- on the generator's own scale, falling with the rank
    is_filled BOOLEAN NOT NULL,             -- taken from the popular items, as the generator had no more
    PRIMARY KEY (generator, split, user_id, rank)
);

-- Asset `evaluation_report`: one row per generator, depth, ranking and metric.
CREATE TABLE IF NOT EXISTS evaluation_report (
    generator VARCHAR NOT NULL,
    depth     INTEGER NOT NULL,             -- candidates that were ordered
    ranking   VARCHAR NOT NULL,
    metric    VARCHAR NOT NULL,
    value     DOUBLE NOT NULL,
    low       DOUBLE NOT NULL,              -- 95 % interval
    high      DOUBLE NOT NULL,
    users     INTEGER NOT NULL,
    encoder   VARCHAR,                      -- fingerprint; NULL where no encoder has a part in it
    PRIMARY KEY (generator, depth, ranking, metric)
);

-- Columns that came after the first version; nothing happens where they are there.
ALTER TABLE review_aspects ADD COLUMN IF NOT EXISTS fallback_reason VARCHAR;
ALTER TABLE review_aspects ADD COLUMN IF NOT EXISTS made_from VARCHAR;
ALTER TABLE catalogs ADD COLUMN IF NOT EXISTS arrival VARCHAR;
ALTER TABLE review_aspects ADD COLUMN IF NOT EXISTS language VARCHAR;
ALTER TABLE personas ADD COLUMN IF NOT EXISTS evidence_spans STRUCT(review_id VARCHAR, "start" INTEGER, "end" INTEGER)[];
ALTER TABLE personas ADD COLUMN IF NOT EXISTS language VARCHAR;
ALTER TABLE alignment_pairs ADD COLUMN IF NOT EXISTS shown_orders INTEGER[][];
ALTER TABLE alignment_pairs ADD COLUMN IF NOT EXISTS order_probabilities DOUBLE[][];
ALTER TABLE alignment_pairs ADD COLUMN IF NOT EXISTS similarity_persona_id VARCHAR;
ALTER TABLE alignment_pairs ADD COLUMN IF NOT EXISTS entropy DOUBLE;
