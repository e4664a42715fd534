-- What users did, most frequent first, from the gold layer.
SELECT
    event_type,
    sum(total_events) AS events,
    round(avg(avg_value), 2) AS avg_value
FROM web.events_hourly
GROUP BY event_type
ORDER BY events DESC;
