"""Every line has its own look, whichever methods there are."""

from mrl_experiments.report.styles import KNOWN, line, order


def test_named_lines_differ_in_more_than_colour():
    # SVD of the features and of the classifier never share a figure.
    looks = [look for key, look in KNOWN.items() if key not in ("ff_svd_head", "ff_random_probe")]
    assert len({look.marker for look in looks}) == len({look.light for look in looks}) == len(looks)


def test_a_method_not_named_here_gets_a_look_that_stays():
    first, again = line("contrastive"), line("contrastive")
    assert first == again
    assert first.label == "contrastive"
    assert order("contrastive") > order("slim")


def test_reductions_and_probes_of_any_method_are_labelled():
    assert line("mrl_svd").label == "MRL, SVD"
    assert line("mrl_e_svd_head").label == "MRL-E, SVD of the head"
    assert line("mrl_probe").label == "MRL, linear probe"
    assert line("mrl_probe").light == line("mrl").light


def test_slimmable_networks_are_named_with_the_protocol_of_their_rows():
    assert line("slim").label == "Slim. Net, truncated"
    assert line("slim:native widths").label == "Slim. Net, native widths"
    assert line("slim:wide").label == "Slim. Net, truncated, wide"
    assert line("slim_universal:wide native widths").label == "US-Net, wide native widths"
    assert line("slim_svd:native widths").label == "Slim. Net, SVD, native widths"
    probed = line("slim_probe:native widths")
    assert probed.label == "Slim. Net, native widths, linear probe"
    assert probed.light == line("slim:native widths").light != line("slim_probe").light
