"""Artifact against reference: faces are matched, metrics measured, each becomes a finding with a verdict.

match               candidate faces to reference faces, one to one
metrics             what a set of photographs says about one artifact
ground_truth        gt.json, and which photograph each entry describes
average_precision   AP of detections against ground truth
compare             one pass over the photographs: the reference and every artifact on the same pixels
limits              the metrics, the default limit of each precision, and the user's own
judge               measured values to findings
"""
